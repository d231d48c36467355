"""Counter-based noise: the draws of a population, for study."""

from __future__ import annotations

from fpes import _checks
from fpes._backends import Array, backend_named

NOISE_KINDS = ("binomial", "rademacher", "gaussian")
NOISE_ROLES = ("weight", "bias", "factor_a", "factor_b", "node", "positions", "direction", "init")

LARGEST_SEED = 2**64 - 1
LARGEST_WORD = 2**32 - 1
_ELEMENTS_PER_BLOCK = {"binomial": 8, "rademacher": 128, "gaussian": 4}


def noise(
    kind: str,
    seed: int,
    *,
    layer: int,
    role: str,
    pair: int = 0,
    generation: int = 0,
    count: int,
    first: int = 0,
    device: str = "cpu",
) -> Array:
    """Elements first ... first + count - 1 of one tensor of noise, of one pair in one generation.

    Philox4x32-7 (Salmon et al., SC 2011) with key = seed and counter = (block, tensor, pair, generation); a block gives
    8 "binomial" draws (popcount of 16 bits, minus 8: variance 4), 128 "rademacher" draws (+1 or -1) or 4 "gaussian"
    draws (Box-Muller). Nothing is stored: any part can be drawn at any time, with the same bits everywhere.

    Args:
        kind: "binomial", "rademacher" or "gaussian".
        seed: 0 ... 2**64 - 1.
        layer: layer of the network, from 0; for noise on parameters, tied layers (LinearNetwork) count once.
        role: tensor of the layer: "weight", "bias", "factor_a", "factor_b", "node", "positions", "direction", "init".
        pair: 0 ... 2**32 - 1.
        generation: 0 ... 2**32 - 1.
        count: number of elements.
        first: the first element, in row-major order of the tensor.
        device: "cpu", "cuda" (the current CUDA device) or "cuda:1".

    Returns:
        float32 [count], a NumPy array, or a CuPy array on a CUDA device.

    Raises:
        ValueError: an unknown kind or role, or a number out of range.
    """
    if role not in NOISE_ROLES:
        raise ValueError(f"role is {role!r}, expected one of {', '.join(map(repr, NOISE_ROLES))}")
    checked = check_kind(kind)
    elements = _ELEMENTS_PER_BLOCK[checked] * 2**32
    start = _checks.integer("first", first, 0, elements - 1)
    size = _checks.integer("count", count, 1, elements - start)
    tensor = {
        "seed": _checks.integer("seed", seed, 0, LARGEST_SEED),
        "layer": _checks.integer("layer", layer, 0, 2**28),
        "pair": _checks.integer("pair", pair, 0, LARGEST_WORD),
        "generation": _checks.integer("generation", generation, 0, LARGEST_WORD),
    }
    backend = backend_named(device)
    draws = backend.empty((size,))
    backend.noise(draws, kind=checked, role=role, first=start, **tensor)
    return draws


def check_kind(kind: str) -> str:
    """`kind`, if it is a known kind of noise."""
    if kind not in NOISE_KINDS:
        raise ValueError(f"noise is {kind!r}, expected one of {', '.join(map(repr, NOISE_KINDS))}")
    return kind
