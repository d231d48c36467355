"""On a GPU: does the hardware flush by the rule that the CPU backend and the oracle follow?

Single PTX instructions on millions of operands crowded at 2^-126 (tests/oracle/operands.py), compared with exact
arithmetic. The number of mismatches is noted as a property of the test, which `make gpu-check` puts into its table.
"""

from __future__ import annotations

import numpy as np
import oracle
import pytest

pytestmark = pytest.mark.gpu

OPERANDS = 1 << 22
_KERNEL = r"""
extern "C" __global__ void operate(const unsigned* a, const unsigned* b, const unsigned* c, unsigned* out, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const float x = __uint_as_float(a[i]), y = __uint_as_float(b[i]), z = __uint_as_float(c[i]);
    float result;
    asm volatile("%s" : "=f"(result) : "f"(x), "f"(y), "f"(z));
    out[i] = __float_as_uint(result);
}
"""


def square_root(a, b, c, ftz):
    """Correctly rounded: float64 has more than twice the digits."""
    wide = oracle.widen(a, daz=ftz)
    return oracle.to_float32(
        np.where(np.signbit(wide) & (wide != 0), np.nan, np.sqrt(np.abs(wide)) * np.copysign(1, wide))
    )


INSTRUCTIONS = {
    "fma.rn.ftz.f32 %0, %1, %2, %3;": lambda a, b, c: oracle.fma(a, b, c, ftz=True),
    "fma.rn.f32 %0, %1, %2, %3;": lambda a, b, c: oracle.fma(a, b, c, ftz=False),
    "mul.rn.ftz.f32 %0, %1, %2;": lambda a, b, c: oracle.mul(a, b, ftz=True),
    "mul.rn.f32 %0, %1, %2;": lambda a, b, c: oracle.mul(a, b, ftz=False),
    "add.rn.ftz.f32 %0, %1, %3;": lambda a, b, c: oracle.add(a, c, ftz=True),
    "add.rn.f32 %0, %1, %3;": lambda a, b, c: oracle.add(a, c, ftz=False),
    "div.rn.ftz.f32 %0, %1, %2;": lambda a, b, c: oracle.div(a, b, ftz=True),
    "div.rn.f32 %0, %1, %2;": lambda a, b, c: oracle.div(a, b, ftz=False),
    "sqrt.rn.ftz.f32 %0, %1;": lambda a, b, c: square_root(a, b, c, ftz=True),
    "sqrt.rn.f32 %0, %1;": lambda a, b, c: square_root(a, b, c, ftz=False),
}


def operands():
    """Three float32 arrays."""
    rng = np.random.default_rng(0)
    boundary = oracle.boundary_operands(rng, OPERANDS)
    # The sample on which round-then-flush and flush-then-round part: 0x90341366 x 0x2fb5f7c4.
    known = oracle.from_bits(np.array([0x90341366])), oracle.from_bits(np.array([0x2FB5F7C4])), np.zeros(1, np.float32)
    return tuple(np.concatenate([one, many]) for one, many in zip(known, boundary, strict=True))


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda text: text.partition(" ")[0])
def test_instruction(instruction, record_property):
    cupy = pytest.importorskip("cupy")
    a, b, c = operands()
    out = cupy.empty(a.size, cupy.uint32)
    kernel = cupy.RawKernel(_KERNEL % instruction, "operate", options=("--ftz=false", "--fmad=false"))
    arrays = [cupy.asarray(array.view(np.uint32)) for array in (a, b, c)]
    kernel((-(-a.size // 256),), (256,), (*arrays, out, np.int32(a.size)))
    got, want = cupy.asnumpy(out).view(np.float32), INSTRUCTIONS[instruction](a, b, c)
    both_nan = np.isnan(got) & np.isnan(want)
    mismatches = int(np.count_nonzero((got.view(np.uint32) != want.view(np.uint32)) & ~both_nan))
    record_property("instruction", instruction.partition(" ")[0])
    record_property("operands", a.size)
    record_property("mismatches", mismatches)
    oracle.assert_bitwise_equal(got, want, instruction)
