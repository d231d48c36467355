"""The independent reference that the kernels are compared with, bit for bit, written from the design alone.

It shares no code with the package. It needs NumPy only, and no result depends on the CPU's floating-point
modes (the loss reference, which is compared by closeness, excepted).
"""

from .checks import assert_bitwise_equal
from .flush import add, div, fma, from_bits, mul, negate, to_float32, widen
from .loss import binary_cross_entropy, centred_ranks, cross_entropy, fitness, squared_error, ulp_error
from .network import FLUSH_MODES, Network, bias_add, forward, gemm, multiply
from .noise import integers, philox, tensor_id
from .operands import boundary_operands, special_operands
from .population import Population

__all__ = [
    "FLUSH_MODES",
    "Network",
    "Population",
    "add",
    "assert_bitwise_equal",
    "bias_add",
    "binary_cross_entropy",
    "boundary_operands",
    "centred_ranks",
    "cross_entropy",
    "div",
    "fitness",
    "fma",
    "forward",
    "from_bits",
    "gemm",
    "integers",
    "mul",
    "multiply",
    "negate",
    "philox",
    "special_operands",
    "squared_error",
    "tensor_id",
    "to_float32",
    "ulp_error",
    "widen",
]
