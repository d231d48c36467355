"""The model that reads a kernel's speed from its machine code: its parts, and what docs/cuda.md says of it."""

from __future__ import annotations

import copy
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import shim_backend

import fpes
from fpes.study.machine_code import Kernel

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def model(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("cuda_model")


def code(model, *lines):
    """Instructions from their text."""
    return [
        model.Instruction(16 * number, re.sub(r"^@!?P\d ", "", line).split()[0], line, 1)
        for number, line in enumerate(lines)
    ]


def loop(multiply_adds, others=0):
    """A kernel with one loop: so many multiply-adds, none of which waits for a register, and a barrier."""
    lines = [f"FFMA R{4 * i % 200}, R1.reuse, R{3 + 4 * i % 200}, R{4 * i % 200}" for i in range(multiply_adds)]
    lines += ["MOV R240, R241"] * others + ["BAR.SYNC 0x0", "@P0 BRA 0x0"]
    codes = [line.removeprefix("@P0 ").split()[0] for line in lines]
    return Kernel(
        "_Z11gemm_kernelv", "sm_90", codes, lines, [16 * number for number in range(len(lines))], [1] * len(lines)
    )


def test_operands_are_read_from_two_banks(model):
    """Two operands of a bank take two cycles, and none where they are marked for reuse; a few cycles are hidden."""
    even = ["FFMA R0, R2, R4, R6"] * 100
    assert abs(model._port_cycles(code(model, *even)) - 300) <= model.WINDOW + 3
    both = ["FFMA R0, R2, R5, R6"] * 100
    assert abs(model._port_cycles(code(model, *both)) - 200) <= model.WINDOW + 3
    kept = ["FFMA R0, R2.reuse, R5, R6"] * 100
    assert model._port_cycles(code(model, *kept)) <= 100 + model.WINDOW


def test_sources_of_instructions(model):
    sources = [each.sources for each in code(
        model,
        "FFMA.FTZ R0, R2.reuse, -R5, R0",
        "STS.128 [R4+0x20], R8",
        "@!P0 LDS R7, [R4]",
        "MOV R1, 0x3",
    )]  # fmt: skip
    assert sources == [[(2, True), (5, False), (0, False)], [(4, False), (8, False)], [(4, False)], []]


@pytest.mark.parametrize(
    ("registers", "threads", "shared", "blocks"),
    [(255, 256, 1000, 1), (168, 128, 1000, 3), (128, 128, 1000, 4), (64, 128, 100_000, 2), (32, 1024, 0, 2)],
)
def test_blocks_of_a_multiprocessor(model, registers, threads, shared, blocks):
    assert model._blocks(registers, threads, shared) == blocks


def test_the_bound_of_a_loop(model, monkeypatch):
    """1,024 multiply-adds of 1,280 instructions of a loop."""
    watched = model.Watched("product", "gemm_kernel", depth=16, shared=1000)
    monkeypatch.setattr(model, "_tile_of", lambda _: "2, 2, 4, 8, 8, 8")
    bounds = [model.bound_of(loop(1024, others), 128, watched) for others in (254, 420)]
    assert bounds[0].instructions == 1280
    assert bounds[0].warps == 4
    assert bounds[0].cycles["issue"] == 4 * 1280
    assert bounds[0].share == pytest.approx(1024 / 1280, rel=0.01)
    stored, found = ({"product": {"share": bound.share}} for bound in bounds)
    assert model.changed(stored, stored) == []
    assert model.changed(stored, found) == ["product: 70.8 % of peak, expected about 80.0 %"]


def test_no_loop_no_bound(model):
    watched = model.Watched("product", "gemm_kernel", depth=16, shared=1000)
    with pytest.raises(ValueError, match="product: no loop of 512 multiply-adds in gemm_kernel"):
        model.bound_of(loop(100), 128, watched)


def test_shared_memory_is_what_launches_ask_for(model):
    net = fpes.LinearNetwork((784, 512, 512, 10))
    for name, perturbation, batch in (
        ("full rank, binomial", fpes.FullRank(), 32),
        ("full rank, a layer at a time", fpes.FullRank(), 64),
        ("low rank, node, forward", fpes.LowRank(1), 64),
    ):
        population = fpes.Population(net, net.init(0), size=8, sigma=0.1, perturbation=perturbation)
        watched = next(watched for watched in model.WATCHED if watched.name == name)
        plan = shim_backend.ShimPopulation(population).plan(np.zeros((batch, 784), np.float32))
        assert f"{watched.shared} bytes of shared memory" in plan


def test_the_table_of_the_docs(model):
    text = model.DOCS.read_text()
    stored = json.loads(model.STORED.read_text())
    assert text.partition(model.BEGIN)[2].partition(model.END)[0].strip() == model.table(stored)
    other = copy.deepcopy(stored)
    other["ftz"]["gemm, 128 x 128"]["share"] *= 0.9
    assert model.table(other) != model.table(stored)
