"""`fpes compare-builds`: the studies behind it, and the command."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import click.testing
import cuda_double
import numpy as np
import oracle
import pytest

import fpes
from fpes import _cpu
from fpes.cli.commands import cli as command
from fpes.study import bits, code, cost, machine_code, operands, report

ROOT = Path(__file__).parent.parent
SMALLEST = np.float32(2.0**-126)
TINY = operands.Size((9, 8, 6, 5), members=12, batch=8, product=(5, 6, 20), elements=(4, 8))


def floats(*words):
    return np.array(words, np.uint32).view(np.float32)


class TestDifference:
    def test_equal_arrays_have_none(self):
        v = floats(0, 1, 0x80000000, 0x3F800000)
        found = bits.difference(v, v.copy())
        assert (found.elements, found.different, found.ulps, found.relative, found.first) == (4, 0, 0, 0.0, ())
        assert found.zeros == found.other_zeros == 2

    def test_counts_units_in_the_last_place_across_zero(self):
        found = bits.difference(floats(0x80000001, 5), floats(2, 5))
        assert (found.different, found.ulps, found.median_ulps, found.first) == (1, 3, 3, (0,))
        assert found.relative == pytest.approx(1.5)

    def test_a_flushed_number_is_its_distance_from_zero(self):
        found = bits.difference(np.array([0.0], np.float32), np.array([SMALLEST / 2]))
        assert (found.zeros, found.other_zeros, found.ulps, found.relative) == (1, 0, 2**22, 1.0)

    def test_zeros_of_another_sign_are_other_bits(self):
        found = bits.difference(floats(0), floats(0x80000000))
        assert (found.different, found.ulps, found.zeros, found.other_zeros) == (1, 0, 1, 1)

    def test_finds_the_first_place_of_a_matrix(self):
        a = np.ones((3, 4), np.float32)
        b = a.copy()
        b[1, 2] = b[2, 0] = 2.0
        assert bits.difference(a, b).first == (1, 2)


class TestOperands:
    def test_a_crowd_lies_on_both_sides_of_the_smallest_normal(self):
        crowd = operands.SCALES[2].numbers(np.random.default_rng(0), (1000,))
        magnitude = (crowd.view(np.uint32) & 0x7FFFFFFF).astype(np.int64)
        assert abs(magnitude - 0x800000).max() <= 1024
        subnormal = (magnitude < 0x800000).mean()
        assert 0.4 < subnormal < 0.6
        assert 0.4 < (crowd.view(np.uint32) >> 31).mean() < 0.6

    @pytest.mark.parametrize("size", [operands.WHOLE, operands.QUICK], ids=["whole", "quick"])
    def test_every_family_fits_every_size(self, size):
        given = operands.problem(size, operands.SCALES[0])
        for perturbation in operands.families(given.net.layers).values():
            count = operands.members_of(perturbation, size)
            fpes.Population(given.net, given.theta, size=count, sigma=0.1, perturbation=perturbation)


@pytest.fixture(scope="module")
def rows():
    return bits.study(TINY)


class TestBits:
    def test_every_kernel_is_there_in_every_scale_and_pair_of_modes(self, rows):
        kernels = {row["kernel"] for row in rows}
        assert len(kernels) == 4 + 2 * len(operands.families(3))
        assert len(rows) == len(kernels) * len(operands.SCALES) * len(bits.PAIRS)

    def test_nothing_differs_far_from_the_boundary(self, rows):
        far = [row for row in rows if row["operands"] == "at 1"]
        assert far
        assert [row["kernel"] for row in far if row["difference"]["different"]] == []

    def test_a_gradient_of_weights_has_the_same_bits_in_every_mode(self, rows):
        same = [row for row in rows if re.match(r"gradient: (full|low|one-layer low)", row["kernel"])]
        assert same
        assert [row["kernel"] for row in same if row["difference"]["different"]] == []

    @pytest.mark.parametrize("scale", operands.SCALES[1:], ids=lambda scale: scale.name)
    def test_products_differ_as_the_oracle_says(self, rows, scale):
        m, n, k = TINY.product
        rng = np.random.default_rng(2)
        a, b = scale.numbers(rng, (m, k)), scale.factors(rng, (k, n))
        for row in rows:
            if row["kernel"] != "gemm" or row["operands"] != scale.name:
                continue
            want = [
                int((oracle.gemm(a[:, :t], b[:t], flush=row["modes"][0]).view(np.uint32)
                     != oracle.gemm(a[:, :t], b[:t], flush=row["modes"][1]).view(np.uint32)).sum())
                for t in range(1, k + 1)
            ]  # fmt: skip
            assert row["series"] == [count / (m * n) for count in want]
            first = next((t for t, count in enumerate(want, start=1) if count), None)
            assert row["begins"] == ("" if first is None else f"k = {first} of {k}")
            assert row["difference"]["different"] == want[-1]

    @pytest.mark.parametrize("flush", oracle.FLUSH_MODES)
    @pytest.mark.parametrize("scale", operands.SCALES, ids=lambda scale: scale.name)
    def test_layers_from_the_primitives_are_the_networks(self, flush, scale):
        given = operands.problem(TINY, scale)
        net = given.net.with_flush(flush)
        layers = bits.activations(net, given.theta, given.x)
        oracle.assert_bitwise_equal(layers[-1], net(given.theta, given.x), f"{flush}, {scale.name}")
        assert [layer.shape[1] for layer in layers] == list(TINY.network[1:])

    def test_effects_are_of_fitness_and_ranks(self, rows):
        row = next(
            row
            for row in rows
            if (row["kernel"], row["operands"], row["modes"])
            == ("population: full rank", "at 2^-125", ("boundary", "never"))
        )
        given = operands.problem(TINY, operands.SCALES[1])
        fitness = {
            flush: fpes.Population(given.net.with_flush(flush), given.theta, size=12, sigma=operands.SIGMA, seed=3)
            .evaluate(given.x, given.y)
            .fitness
            for flush in ("boundary", "never")
        }
        ranks = {flush: np.argsort(np.argsort(values)) for flush, values in fitness.items()}
        assert row["effect"]["fitness"] == (fitness["boundary"] != fitness["never"]).sum()
        assert row["effect"]["ranks"] == (ranks["boundary"] != ranks["never"]).sum()
        want = np.corrcoef(ranks["boundary"], ranks["never"])[0, 1]
        assert row["effect"]["rank_correlation"] == pytest.approx(want)
        assert f"rank correlation {want:.2f}" in bits.effect_in_words(row)

    def test_a_gpu_is_asked_for_the_same(self, rows, monkeypatch):
        """The CUDA backend on the double, whose kernels are the CPU's: so the findings must be."""
        modules = {build: cuda_double.CpuKernels(build) for build in ("ftz", "ieee")}
        cuda_double.install(monkeypatch, modules)
        on_gpu = bits.study(TINY, device="cuda")
        assert on_gpu == rows
        assert bits.kernels_with_other_bits(on_gpu, rows) == []
        called = {build: {name for name, _ in module.calls} for build, module in modules.items()}
        everywhere = {"gemm", "multiply", "bias_add", "forward", "population_forward", "population_evaluate"}
        assert everywhere <= called["ftz"] & called["ieee"]

    def test_another_bit_on_another_device_is_noticed(self, rows):
        broken = [row | {"checksums": (1, 2)} if row["kernel"] == "gemm" else row for row in rows]
        assert bits.kernels_with_other_bits(broken, rows) == ["gemm"]
        said = report._on_devices({"device": "cuda", "bits": rows, "other_than_cpu": ["gemm"]})
        assert said == ["cuda gives OTHER bits than the CPU: gemm."]
        said = report._on_devices({"device": "cuda", "bits": rows, "other_than_cpu": []})
        assert said == ["cuda gives the CPU's bits: all 18 kernels, every mode, all operands."]
        assert report._on_devices({"device": "cpu", "bits": rows}) == []

    def test_equal_members_have_no_ranks(self):
        ours = np.zeros(4, np.float32)
        theirs = np.arange(4, dtype=np.float32)
        effect = bits._on_fitness(ours, theirs)
        assert "rank_correlation" not in effect
        assert "have no ranks" in bits.effect_in_words({"kernel": "population: node", "effect": effect})


def fake_cost(kernel, subnormal=1.0, boundary=1.0, always=1.0):
    """A Cost from made-up times: 1 for never on normal numbers, and factors."""
    times = {
        ("normal", "never"): [1.0, 2.0, 4.0],
        ("normal", "boundary"): [1.0, 2.0, 4.0],
        ("normal", "always"): [1.0, 2.0, 4.0],
        ("subnormal", "never"): [subnormal * t for t in (1.0, 2.0, 4.0)],
        ("subnormal", "boundary"): [subnormal * boundary * t for t in (1.0, 2.0, 4.0)],
        ("subnormal", "always"): [subnormal * always * t for t in (1.0, 2.0, 4.0)],
    }
    return cost._summary(kernel, times, {})


class TestCost:
    def test_ratios_are_taken_within_a_round(self):
        """Rounds of very different length, as on a machine that others use, and ratios without any spread."""
        ratio = fake_cost("node", boundary=0.5).to_never["subnormal, boundary"]
        assert (ratio.low, ratio.median, ratio.high) == (0.5, 0.5, 0.5)

    def test_every_variant_has_its_turn_in_every_round(self):
        running, timed = [], []
        variants = {
            (operands, flush): lambda name=(operands, flush): running.append(name) or np.zeros((1, 2), np.float32)
            for operands in ("normal", "subnormal")
            for flush in oracle.FLUSH_MODES
        }

        def clock(run, calls):
            for _ in range(calls):
                run()
            timed.append(running[-1])
            return calls * (2.0 if running[-1] == ("subnormal", "always") else 1.0)

        found = cost._measured("kernel", variants, cost.Effort(rounds=4, seconds=0.5), clock)
        assert found.to_never["subnormal, always"].median == 2.0
        assert found.to_normal["always"].median == 2.0
        assert found.zeros == {"never": 1.0, "boundary": 1.0, "always": 1.0}
        rounds = [set(timed[i : i + 6]) for i in range(6, len(timed), 6)]  # the first six are the calibration's
        assert rounds == [set(variants)] * 4

    def test_slow_subnormals_are_called_slow(self):
        slow = cost.statements([fake_cost("multiply", subnormal=10.0), fake_cost("gemm", subnormal=8.0)], "cpu")
        assert "are slow on this processor" in slow[0]
        assert "8.00 to 10.00 times" in slow[0]
        quick = cost.statements([fake_cost("multiply"), fake_cost("gemm", subnormal=1.1)], "cpu")
        assert "cost nothing on this processor" in quick[0]
        assert "1.00 to 1.10 times" in quick[0]

    def test_what_underflow_does_to_populations_is_said_only_where_it_shows(self):
        said = " ".join(cost.statements([fake_cost("node", boundary=0.4, always=1.5)], "cpu"))
        assert "node under boundary takes 0.40 times" in said
        assert "node under always takes 1.50 times" in said
        assert "populations faster" not in " ".join(cost.statements([fake_cost("node")], "cpu"))

    def test_numpy_flushes_only_within_a_call(self):
        calls = cost._numpy_calls(np.multiply)
        for (numbers, flush), call in calls.items():
            zeros = (call().view(np.uint32) == 0).all()
            assert zeros == (numbers == "subnormal" and flush != "never"), (numbers, flush)
            assert not _cpu.flush_bits()

    def test_a_study_leaves_the_threads_as_they_were(self, threads):
        found = cost.study(TINY, cost.Effort(rounds=2, seconds=1e-5), only="node")
        assert fpes.get_threads() == threads
        assert [kernel["kernel"] for kernel in found["kernels"]] == ["node", "one-layer node"]
        assert all(t > 0 for kernel in found["kernels"] for t in kernel["microseconds"].values())


SASS = """
Fatbin elf code:
================
arch = sm_90
code version = [1,8]
\tcode for sm_90
\t\tFunction : _ZN4fpes8cuda_ftz11gemm_kernelINS0_4TileILi2EEENS0_5PlainEEEvPKfPf
        /*0000*/                   LDC R1, c[0x0][0x28] ;      /* 0x00000a00ff017b82 */
                                                               /* 0x000ff00000000800 */
        /*0010*/              @!P0 FFMA.FTZ R3, R2.reuse,  R4, R3 ;   /* 0x00000a00ff017b82 */
        /*0020*/                   STL [R1], R2 ;              /* 0x00000a00ff017b82 */
\t\t..........

Fatbin ptx code:
================
arch = sm_90
        /*0030*/                   NOP ;
"""


class TestMachineCode:
    def test_instructions_and_lines(self):
        (kernel,) = machine_code._parsed(SASS, machine_code._SASS_FUNCTION, machine_code._SASS, machine_code._SASS_TEXT)
        assert kernel.architecture == "sm_90"
        assert kernel.instructions == ["LDC", "FFMA.FTZ", "STL"]
        assert kernel.lines == ["LDC R1, c[0x0][0x28]", "@!P0 FFMA.FTZ R3, R2.reuse, R4, R3", "STL [R1], R2"]
        assert machine_code.readable(kernel.name) == "gemm_kernel<Tile<2>, Plain>"

    def test_a_name_that_is_not_mangled_stays(self):
        assert machine_code.readable("noise_kernel") == "noise_kernel"

    def test_counterparts_of_the_two_builds(self):
        plain, ieee = (
            machine_code.Kernel(f"_ZN4fpes{build}11gemm_kernelINS0_4TileILi2EEENS0_{mode}EEEvPKfPf")
            for build, mode in (("8cuda_ftz", "5Plain"), ("9cuda_ieee", "4Ieee"))
        )
        assert code._key(plain) == code._key(ieee) == "gemm_kernel<Tile<2>, Ieee>"
        assert code._modes(machine_code.readable(plain.name)) == "always"
        assert code._modes(machine_code.readable(ieee.name)) == "boundary"
        assert code._modes("bias_add_kernel") == "boundary, always"

    def test_without_the_builds_the_reason_is_given(self, monkeypatch):
        monkeypatch.setattr(machine_code, "module_file", lambda build: None)
        found = code.study()
        assert found["kernels"] == []
        assert "lacks the CUDA build 'ftz' and 'ieee'" in found["reason"]
        assert "wasn't compared" in report._on_code(found)[0]


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    """The kernels of gemm.cu in both builds: as installed, or compiled for this test."""
    if machine_code.disassembler() is None:
        pytest.skip(
            "NOT INSPECTED: cuobjdump is not installed (pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm)"
        )
    if machine_code.module_file("ftz") and machine_code.module_file("ieee"):
        return code.study("gemm_kernel")
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("NOT INSPECTED: no CUDA build is installed, and there is no nvcc to compile gemm.cu with")
    folder = tmp_path_factory.mktemp("gemm")
    objects = {build: folder / f"{build}.fatbin" for build in ("ftz", "ieee")}
    for build, file in objects.items():
        on = build == "ftz"
        arithmetic = [f"-ftz={str(on).lower()}", "-fmad=false", "-prec-div=true", "-prec-sqrt=true"]
        names = [f"-DFPES_MODULE=_cuda_{build}", f"-DFPES_TARGET=cuda_{build}", f"-DFPES_FTZ={int(on)}"]
        source = str(ROOT / "csrc" / "cuda" / "gemm.cu")
        subprocess.run(
            [nvcc, "-std=c++17", "-O3", "-fatbin", "-arch=sm_90", *arithmetic, *names, source, "-o", str(file)],
            check=True,
        )
    return code.compare_files([objects["ftz"]], [objects["ieee"]])


class TestProducts:
    def test_boundary_is_never_to_the_instruction(self, products):
        kept = [kernel for kernel in products["kernels"] if kernel["modes"] == "boundary"]
        assert kept
        for kernel in kept:
            assert kernel["different"] == 0, kernel
            assert kernel["ftz"]["multiply_adds"] == kernel["ieee"]["multiply_adds"] >= 160
            assert kernel["ftz"]["flushing_multiply_adds"] == 0

    def test_always_differs_in_its_multiply_adds_and_nothing_else(self, products):
        flushed = [kernel for kernel in products["kernels"] if kernel["modes"] == "always"]
        assert flushed
        for kernel in flushed:
            assert kernel["different"] == kernel["only_by_ftz"] == kernel["ftz"]["flushing_multiply_adds"] >= 160
            assert kernel["ftz"]["multiply_adds"] == 0
            assert all(".FTZ" in left and ".FTZ" not in right for _, left, right in kernel["first"])

    def test_resources(self, products):
        for kernel in products["kernels"]:
            assert 32 <= kernel["ftz"]["registers"] == kernel["ieee"]["registers"] <= 255
            assert kernel["ftz"]["spills"] == 0
            assert kernel["ftz"]["ptx_instructions"] == 0 or kernel["ftz"]["ptx_instructions"] > 400

    def test_the_report_says_it(self, products):
        said = report._on_code(products)
        assert any("gemm under boundary has the instructions of never" in sentence for sentence in said)


def invoke(*arguments):
    return click.testing.CliRunner().invoke(command, ["compare-builds", *map(str, arguments)])


class TestCommand:
    def test_report_in_terminal_page_and_json(self, tmp_path):
        result = invoke("--quick", "--only", "bits", "--only", "cost", "--kernel", "gemm", "--output", tmp_path)
        assert result.exit_code == 0, result.output
        assert "Bits that differ from flush never" in result.output
        assert "A matrix product under boundary has the bits of never" in " ".join(result.output.split())
        assert "Cost, cpu: processor time" in result.output
        stored = json.loads((tmp_path / "report.json").read_text())
        assert {row["kernel"] for row in stored["bits"]} == {"gemm"}
        assert stored["parts"] == ["bits", "cost"]
        assert stored["code"] == {}

    def test_the_page_needs_no_network(self, tmp_path):
        invoke("--quick", "--only", "bits", "--kernel", "gemm", "--output", tmp_path)
        html = (tmp_path / "report.html").read_text()
        sources = re.findall(r'\b(?:src|srcset|href)="([^"]{0,30})', html)
        assert len(sources) == 4  # two pictures, light and dark
        assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
        assert "@import" not in html
        assert "url(" not in html

    def test_json_is_all_that_is_printed(self, tmp_path):
        result = invoke("--quick", "--only", "bits", "--kernel", "multiply", "--json", "--output", tmp_path)
        assert json.loads(result.stdout) == json.loads((tmp_path / "report.json").read_text())

    def test_a_word_that_fits_no_kernel(self, tmp_path):
        result = invoke("--quick", "--only", "bits", "--kernel", "gem m", "--output", tmp_path)
        assert result.exit_code == 2
        assert "no kernel has 'gem m' in its name; there are: multiply, bias_add, gemm" in result.output
        assert list(tmp_path.iterdir()) == []

    def test_code_that_is_not_there_is_no_mistake(self, tmp_path, monkeypatch):
        monkeypatch.setattr(machine_code, "module_file", lambda build: None)
        result = invoke("--only", "code", "--kernel", "gemm", "--output", tmp_path)
        assert result.exit_code == 0, result.output
        assert "Machine code wasn't compared: this installation lacks the CUDA build" in " ".join(result.output.split())
        assert "Not compared" in (tmp_path / "report.html").read_text()

    def test_a_device_that_is_not_there(self, tmp_path):
        result = invoke("--quick", "--device", "tpu", "--output", tmp_path)
        assert result.exit_code == 2
        assert "device is 'tpu'" in result.output
