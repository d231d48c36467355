"""The compiled kernels, read: what flushes, what doesn't, and that nothing is there which the contract excludes.

The modules that are installed are looked at, PTX and machine code. The machine code of a division or a square root is a
sequence of its own, of fused multiply-adds that don't flush around a first guess (MUFU.RCP, MUFU.RSQ), so whether
everything flushes is asked of PTX, where each is one instruction, and of SASS only in kernels without them.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import gpu_code
import pytest

ROOT = Path(__file__).resolve().parents[1]

# float32 arithmetic, all of which can have the modifier .ftz. Moves, loads, selections and conversions of integers
# can't: there is nothing to flush.
ARITHMETIC = r"(add|sub|mul|fma|mad|div|rcp|sqrt|rsqrt|min|max|neg|abs|setp|set|sin|cos|ex2|lg2|tanh|cvt)\.(\w+\.)*f32"
# The same in machine code. Not F2I and I2F: divisions of integers are made of them, and of .FTZ whatever the build.
MACHINE_ARITHMETIC = r"(FADD|FMUL|FFMA|FMNMX|FSET|FSETP|FSEL|FCHK|F2F)"
OF_INTEGERS = r"cvt\.r\w+\.f32\.[su]\d+$"
# What never flushes, in any build: products of the modes that keep subnormals, and conversions of sums.
KEEPS_SUBNORMALS = r"(fma\.rn\.f32|cvt\.f64\.f32|cvt\.rn\.f32\.f64)$"
# Names of the policies in mangled names (csrc/cuda/intrinsics.hpp).
IEEE, PLAIN = "4Ieee", "5Plain"


def arithmetic(kernel):
    return [i for i in kernel.using(ARITHMETIC) if not re.match(OF_INTEGERS, i)]


def without_sequences(file):
    """Machine code of the kernels that have no division or square root."""
    with_them = {kernel.name for kernel in gpu_code.ptx(file) if kernel.using(r"(div|sqrt|rcp)\.")}
    kernels = [kernel for kernel in gpu_code.sass(file) if kernel.name not in with_them]
    assert kernels
    return kernels


@pytest.fixture(scope="module", params=["ftz", "ieee"])
def file(request):
    return gpu_code.module_file(request.param)


@pytest.fixture(scope="module")
def ftz():
    return gpu_code.module_file("ftz")


@pytest.fixture(scope="module")
def ieee():
    return gpu_code.module_file("ieee")


def test_there_is_something_to_read(file):
    """The other tests say that bad things are absent: here is that good ones are found."""
    for kernels, product in ((gpu_code.ptx(file), r"fma\.rn(\.ftz)?\.f32"), (gpu_code.sass(file), r"FFMA")):
        assert len(kernels) > 4
        assert all(len(kernel.instructions) > 4 for kernel in kernels)
        assert any(len(kernel.using(product)) > 400 for kernel in kernels)


def test_nothing_flushes_in_the_ieee_build(ieee):
    for kernel in gpu_code.ptx(ieee):
        assert not kernel.using(r".*\.ftz"), kernel.name
        assert PLAIN not in kernel.name
    for kernel in without_sequences(ieee):
        assert not kernel.using(rf"{MACHINE_ARITHMETIC}\.(\w+\.)*FTZ"), kernel.name


def test_everything_flushes_in_the_ftz_build_but_what_may_not(ftz):
    for kernel in gpu_code.ptx(ftz):
        keeping = {i for i in arithmetic(kernel) if ".ftz" not in i and not re.match(KEEPS_SUBNORMALS, i)}
        assert not keeping, f"{kernel.name}: {keeping}"


def test_each_product_has_the_multiply_adds_of_its_mode(ftz):
    """In "boundary" (Ieee) none of the product's multiply-adds flushes; in "always" (Plain) every one does."""
    seen = set()
    for kernel in (k for k in gpu_code.ptx(ftz) if "gemm" in k.name):
        flushing, keeping = kernel.using(r"fma\.rn\.ftz\.f32"), kernel.using(r"fma\.rn\.f32")
        mode = next(mode for mode in (IEEE, PLAIN) if mode in kernel.name)
        assert keeping if mode == IEEE else flushing, kernel.name
        assert not (flushing if mode == IEEE else keeping), kernel.name
        seen.add(mode)
    assert seen == {IEEE, PLAIN}


def test_machine_code_of_each_product(ftz, ieee):
    for file, build in ((ftz, "ftz"), (ieee, "ieee")):
        for kernel in (k for k in gpu_code.sass(file) if "gemm" in k.name):
            multiply_adds = kernel.using("FFMA")
            flushing = [i for i in multiply_adds if ".FTZ" in i]
            assert len(flushing) == (len(multiply_adds) if PLAIN in kernel.name else 0), f"{build} {kernel.name}"


def test_no_multiply_add_was_made_of_two_operations(file):
    """-fmad=false gives every addition and multiplication its .rn; without it the assembler may fuse them."""
    for kernel in gpu_code.ptx(file):
        fusible = set(kernel.using(r"(add|sub|mul)\.(ftz\.)?f(32|64)$"))
        assert not fusible, f"{kernel.name}: {fusible}"
    # A bias is multiplied by its factor, and then added to the sum: the one addition that could be fused.
    kernels = [k for k in gpu_code.sass(file) if "cross_kernel" in k.name]
    assert kernels
    for kernel in kernels:
        assert len(kernel.using("FADD")) == 1, kernel.name


def test_sums_in_double_are_rounded_after_each_product_and_after_each_sum(file):
    """Of the kernels that make directions of one-unit populations; in SASS of the one without a division."""
    kernels = [kernel for kernel in gpu_code.ptx(file) if re.search("gram_matrix|factorise|span_kernel", kernel.name)]
    assert len(kernels) == 3
    for kernel in kernels:
        assert kernel.using(r"mul\.rn\.f64"), kernel.name
        assert not kernel.using(r"(fma|mad)\.(\w+\.)*f64"), kernel.name
    gram = next(kernel for kernel in gpu_code.sass(file) if "gram_matrix" in kernel.name)
    assert gram.using("DMUL")
    assert gram.using("DADD")
    assert not gram.using("DFMA")


def test_no_approximations(file):
    """exp, log and the normal distribution are our own; divisions and square roots are correctly rounded."""
    for kernel in gpu_code.ptx(file):
        assert not kernel.using(r".*\.(approx|full)\b"), kernel.name
        assert not kernel.using(r"(div|sqrt|rcp)\.(?!rn\.)(\w+\.)*f(32|64)"), kernel.name
    for kernel in gpu_code.sass(file):
        # RCP and RSQ are the first guesses of exact divisions and square roots, of integers too.
        assert not [i for i in kernel.using("MUFU") if not re.match(r"MUFU\.(RCP|RSQ)(64H)?$", i)], kernel.name


def test_a_square_root_is_guessed_only_where_one_is_taken(file):
    takes_root = {kernel.name for kernel in gpu_code.ptx(file) if kernel.using(r"sqrt\.rn")}
    for kernel in gpu_code.sass(file):
        assert not kernel.using(r"MUFU\.RSQ") or kernel.name in takes_root, kernel.name


def test_no_float_atomics(file):
    """They flush whatever the flag, and their order is nobody's."""
    for kernel in gpu_code.ptx(file):
        assert not kernel.using(r"(atom|red)\.(\w+\.|::)*(b?f16|f32|f64)"), kernel.name
    for kernel in gpu_code.sass(file):
        assert not kernel.using(r"(ATOM|ATOMS|ATOMG|RED|REDG)\..*F(16|32|64)"), kernel.name


def test_losses_are_published_before_they_are_counted(file):
    """What the shim can't see, whose blocks run one after another: fences around the count, and reads behind the L1."""
    fence, count, read = r"membar\.gl|fence\.(sc|acq_rel)\.gpu", r"atom\.global\.add\.u32", r"ld\.global\.cg\.f32"
    counting = [kernel for kernel in gpu_code.ptx(file) if kernel.using(count)]
    assert counting
    for kernel in counting:
        order = kernel.using(f"{fence}|{count}|{read}")
        places = [i for i, instruction in enumerate(order) if re.match(count, instruction)]
        for i in places:
            around = order[i - 1 : i + 3]
            assert len(around) == 4, f"{kernel.name}: {order}"
            assert all(map(re.match, (fence, count, fence, read), around)), f"{kernel.name}: {around}"


def test_nothing_is_spilled(file):
    """No kernel keeps anything in local memory, which is memory far away."""
    for kernel in gpu_code.sass(file):
        assert not kernel.using(r"(STL|LDL)\b"), kernel.name


@pytest.mark.parametrize("build", ["ftz", "ieee"])
def test_no_kernel_can_be_slower_than_before(build, monkeypatch):
    """The bounds that machine code sets to the main kernels are those of benchmarks/cuda_model.json, to a tenth.

    Where a change is meant: `python benchmarks/cuda_model.py --write` writes them, and the table of docs/cuda.md.
    """
    file = gpu_code.module_file(build)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    cuda_model = importlib.import_module("cuda_model")
    stored = json.loads(cuda_model.STORED.read_text())[build]
    assert cuda_model.changed(stored, cuda_model.described(cuda_model.found_in(file))) == []
