"""What `make gpu-check` leaves: few files, and a page of whatever its steps found. Nothing here needs a GPU."""

from __future__ import annotations

import importlib
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

import fpes

ROOT = Path(__file__).resolve().parents[1]
ROW = {
    "variant": "fpes", "milliseconds": 2.5, "first_milliseconds": 300.0, "spread": 0.004, "tflops": 37.5,
    "fraction_of_peak": 0.58, "relative_speed": 8.07, "speed_relative_to": "CuPy",
}  # fmt: skip
FOUND = {
    "build": {
        "config": {
            "version": "1", "cuda": {"compiler": "13.0", "builds": ["ftz"], "architectures": ["90-real"]},
        },
        "python": "3.12", "machine": {"name": "H200"}, "seconds": 300.0,
    },
    "test": {
        "passed": 995, "failures": 0, "skipped": 0, "reasons": [], "seconds": 60.0,
        "flush_rule": [{"instruction": "fma.ftz", "operands": 4194304, "mismatches": 0}],
        "sanitizer": {"memcheck": "clean"},
    },
    "bench": {
        "device": {"name": "H200"}, "peak_tflops": 64.4, "left_out": [], "seconds": 60.0,
        "tables": [{"title": "full rank", "rows": [ROW], "errors": {}}],
        "clocks": {"clocks.sm": "1980 MHz", "clocks_event_reasons.active": "0x0"},
    },
    "profile": {
        "seconds": 20.0,
        "kernels": [{
            "kernel": "void fpes::gemm_kernel(int)", "milliseconds": 2.7, "issue": 89.0, "fma": 81.0,
            "registers": "205", "stalls": {"wait": 0.2},
        }],
    },
    "train": {
        "seconds": 300.0,
        "bits": {
            "digits": {"generations": 20, "different": 0, "parameters": 5898, "seconds": {"cuda": 0.008, "cpu": 0.4}},
            "mnist-es": {"not run": "ValueError: OneUnit"},
        },
        "full rank": {"generations": 7, "test": 0.91},
    },
}  # fmt: skip


@pytest.fixture
def gpu_check(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("gpu_check")
    logs = tmp_path / "logs"
    logs.mkdir()
    for name in ("build.log", "tests.log", "tests.xml", "sanitizer-memcheck.log", "bench.log", "train.log"):
        (logs / name).write_text(name)
    monkeypatch.setattr(module, "LOGS", logs)
    return module


def test_results_are_few_files_and_a_page(gpu_check, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    assert list(FOUND) == list(gpu_check.STEPS)
    for step, found in FOUND.items():
        gpu_check.record(out, step, found)
    assert sorted(file.name for file in out.iterdir()) == ["gpu-check.json", "gpu-check.md", "logs.tar.gz"]
    assert json.loads((out / "gpu-check.json").read_text()) == FOUND
    with tarfile.open(out / "logs.tar.gz") as archive:
        assert "logs/train.log" in archive.getnames()
    page = (out / "gpu-check.md").read_text()
    for row in (
        "995 passed, 0 failed, 0 skipped.",
        "| `fma.ftz` | 4,194,304 | 0 |",
        "| fpes | 2.500 | 300.0 | 0.4% | 37.5 | 58% | 8.07 | CuPy |",
        "Clocks afterwards: clocks.sm 1980 MHz, clocks_event_reasons.active 0x0.",
        "| gemm_kernel | 2.700 | 81 | 89 | 205 | wait 0.20 |",
        "| digits | 20 | 0 of 5898 | 0.0080 | 0.4000 |",
        "| mnist-es | not run: ValueError: OneUnit | | | |",
        "784-512-512-10 by full-rank ES: generations 7, test 0.91.",
    ):
        assert row in page, row


def test_a_step_that_was_not_run_is_named(gpu_check):
    assert "Step `train` has not been run." in gpu_check.markdown({"build": FOUND["build"]})


def test_training_to_the_same_bits(gpu_check, monkeypatch):
    """Both devices are the CPU here; then one of them is made to differ."""
    gpu_train = importlib.import_module("gpu_train")
    preset = gpu_train.PRESETS["digits"]
    es = type(preset).es
    monkeypatch.setattr(type(preset), "es", lambda self, seed, device: es(self, seed))
    found = gpu_train.same_bits("digits", 3)
    assert (found["generations"], found["different"]) == (3, 0)
    monkeypatch.setattr(type(preset), "es", lambda self, seed, device: es(self, seed + (device == "cuda")))
    found = gpu_train.same_bits("digits", 3)
    assert found["different"] > found["parameters"] / 2


def test_training_that_differs_fails(gpu_check, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "need_build", lambda: None)
    bits = {"digits": {"generations": 2, "different": 1, "parameters": 5898, "seconds": {"cuda": 1.0, "cpu": 1.0}}}

    def run(command, log, seconds):
        Path(command[2]).write_text(json.dumps({"bits": bits}))
        return 0

    monkeypatch.setattr(gpu_check, "run", run)
    assert gpu_check.train(tmp_path)["failed"] == "the GPU's parameters aren't the CPU's: digits"


def test_the_rate_of_full_rank(gpu_check, monkeypatch):
    gpu_train = importlib.import_module("gpu_train")
    rng = np.random.default_rng(0)
    x, y = rng.random((64, 784), np.float32), rng.integers(0, 10, 64)
    monkeypatch.setattr(gpu_train.fpes.datasets, "load", lambda name: fpes.datasets.Dataset(name, x, y, x, y, 10))
    monkeypatch.setattr(gpu_train, "SIZE", 2)
    monkeypatch.setattr(gpu_train, "BATCH", 8)
    es = fpes.ES
    monkeypatch.setattr(gpu_train.fpes, "ES", lambda *args, **options: es(*args, **{**options, "device": "cpu"}))
    found = gpu_train.full_rank(0.3)
    assert found["generations"] >= 2
    assert found["member-samples a second"] == pytest.approx(16e3 / found["milliseconds a generation"])
    assert 0 <= found["test"] <= 1
