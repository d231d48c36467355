"""Counter-based noise: Philox4x32 with 7 rounds, and the integer noise kinds made from its bits.

counter = (block, tensor, pair, generation), key = (seed low 32 bits, seed high 32 bits). A block is 128 bits
in little-endian order: bit i of a block is bit i % 32 of word i // 32.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 7
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW32 = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)

# Roles of the tensors of one layer.
WEIGHT, BIAS, FACTOR_A, FACTOR_B, NODE, POSITIONS, DIRECTION, INIT = 0, 1, 2, 3, 4, 5, 6, 7
ROLES_PER_LAYER = 8

# How many values one block gives.
_VALUES_PER_BLOCK = {"binomial": 8, "rademacher": 128}
# The standard unit: a value z stands for a perturbation of z * unit * sigma, which has standard deviation
# sigma.
_UNITS = {"binomial": 0.5, "rademacher": 1.0}


def unit(kind: str) -> float:
    """Perturbation per integer step and sigma."""
    _check_kind(kind)
    return _UNITS[kind]


def tensor_id(layer: int, role: int) -> int:
    """Second counter word of a tensor. Layers count from 0."""
    return ROLES_PER_LAYER * layer + role


def philox(counter, key) -> np.ndarray:
    """Philox4x32-7. counter: integers [..., 4]; key: integers [..., 2]; result: uint32 [..., 4]."""
    words = [np.asarray(counter)[..., i].astype(np.uint64) for i in range(4)]
    keys = [np.asarray(key)[..., i].astype(np.uint64) for i in range(2)]
    for _ in range(ROUNDS):
        # 32 x 32 -> 64 bits can't overflow a uint64.
        product0, product1 = _MULTIPLIERS[0] * words[0], _MULTIPLIERS[1] * words[2]
        words = [
            (product1 >> _32) ^ words[1] ^ keys[0],
            product1 & _LOW32,
            (product0 >> _32) ^ words[3] ^ keys[1],
            product0 & _LOW32,
        ]
        keys = [(k + step) & _LOW32 for k, step in zip(keys, _KEY_STEPS, strict=True)]
    return np.stack(np.broadcast_arrays(*words), axis=-1).astype(np.uint32)


def blocks(seed: int, tensor: int, pair: int, generation: int, first: int, count: int) -> np.ndarray:
    """Blocks first .. first + count - 1 of one tensor: uint32 [count, 4]."""
    for name, value, bits in (
        ("seed", seed, 64),
        ("tensor", tensor, 32),
        ("pair", pair, 32),
        ("generation", generation, 32),
        ("last block", first + count, 32),
    ):
        if not 0 <= value < 2**bits:
            raise ValueError(f"{name} must be in [0, 2^{bits}), got {value}")
    counter = np.empty((count, 4), dtype=np.uint64)
    counter[:, 0] = np.arange(first, first + count, dtype=np.uint64)
    counter[:, 1:] = tensor, pair, generation
    return philox(counter, np.array([seed & 0xFFFFFFFF, seed >> 32], dtype=np.uint64))


def integers(kind: str, seed: int, tensor: int, pair: int, generation: int, count: int, start: int = 0) -> np.ndarray:
    """Noise values of elements start .. start + count - 1 of a tensor: int64 [count]."""
    _check_kind(kind)
    per_block = _VALUES_PER_BLOCK[kind]
    first = start // per_block
    last = -(-(start + count) // per_block)
    words = blocks(seed, tensor, pair, generation, first, last - first)
    # [blocks, 4] -> [blocks, 128] single bits, little-endian within a word, words in order.
    bits = (words[:, :, None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
    # The bits of one value lie side by side: 16 for binomial (its popcount is their sum), 1 for rademacher.
    sums = bits.reshape(-1, 128 // per_block).sum(axis=1).astype(np.int64)
    values = sums - 8 if kind == "binomial" else 2 * sums - 1
    offset = start - first * per_block
    return values[offset : offset + count]


def _check_kind(kind: str) -> None:
    if kind not in _UNITS:
        raise ValueError(f"the oracle knows integer noise only, {sorted(_UNITS)}, not {kind!r}")
