"""The noise: known answers from the oracle's generator, and no two tensors, pairs or generations that share any."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fpes

ROLES = {"weight": 0, "bias": 1, "factor_a": 2, "factor_b": 3, "node": 4, "positions": 5, "direction": 6, "init": 7}
INTEGER_KINDS = ["binomial", "rademacher"]
KINDS = [*INTEGER_KINDS, "gaussian"]
each_integer_kind = pytest.mark.parametrize("kind", INTEGER_KINDS)
LARGEST = 2**32 - 1
SEEDS = [0, 1, 2**32, 0x0123456789ABCDEF, 2**64 - 1]


def expected(kind, seed, layer, role, pair, generation, count, first=0):
    tensor = oracle.tensor_id(layer, ROLES[role])
    return oracle.integers(kind, seed, tensor, pair, generation, count, first).astype(np.float32)


@each_integer_kind
@pytest.mark.parametrize("role", ROLES)
def test_roles_pairs_and_generations(isa, kind, role):
    for layer, pair, generation in [(0, 0, 0), (1, 7, 3), (5, LARGEST, 1), (2, 12345, LARGEST)]:
        for seed in SEEDS:
            got = fpes.noise(kind, seed, layer=layer, role=role, pair=pair, generation=generation, count=131)
            oracle.assert_bitwise_equal(got, expected(kind, seed, layer, role, pair, generation, 131), f"{seed:#x}")


@each_integer_kind
def test_counts_and_offsets(isa, kind):
    """Every count around a block and a vector, from offsets that lie anywhere in a block."""
    stream = expected(kind, 9, 1, "weight", 4, 2, 3000)
    where = {"layer": 1, "role": "weight", "pair": 4, "generation": 2}
    counts = [1, 2, 7, 8, 9, 63, 65, 127, 128, 129, 255, 257, 1000, 1025]
    for first in [0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 127, 128, 129, 500, 1023, 1025]:
        for count in counts:
            got = fpes.noise(kind, 9, **where, count=count, first=first)
            oracle.assert_bitwise_equal(got, stream[first : first + count], f"{count} from {first}, {isa}")


@each_integer_kind
def test_far_offsets(isa, kind):
    for first in [2**20 + 3, 2**31 - 5, 2**32 + 77, 2**34 - 300]:
        got = fpes.noise(kind, 1, layer=0, role="weight", pair=0, generation=0, count=257, first=first)
        oracle.assert_bitwise_equal(got, expected(kind, 1, 0, "weight", 0, 0, 257, first), f"from {first}")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(INTEGER_KINDS),
    seed=st.integers(0, 2**64 - 1),
    layer=st.integers(0, 40),
    role=st.sampled_from(sorted(ROLES)),
    pair=st.integers(0, LARGEST),
    generation=st.integers(0, LARGEST),
    count=st.integers(1, 300),
    first=st.integers(0, 2**30),
)
def test_any_element(isa, kind, seed, layer, role, pair, generation, count, first):
    got = fpes.noise(kind, seed, layer=layer, role=role, pair=pair, generation=generation, count=count, first=first)
    oracle.assert_bitwise_equal(got, expected(kind, seed, layer, role, pair, generation, count, first))


@pytest.mark.parametrize("kind", KINDS)
def test_noise_does_not_depend_on_threads(isa, threads, kind):
    where = {"layer": 1, "role": "node", "pair": 3, "generation": 0}
    whole = fpes.noise(kind, 5, **where, count=40_001, first=3)
    parts = [fpes.noise(kind, 5, **where, count=1, first=first) for first in (3, 4, 20_003, 40_003)]
    oracle.assert_bitwise_equal(np.concatenate(parts), whole[[0, 1, 20_000, 40_000]], f"{threads} threads, {isa}")
    fpes.set_threads(1)
    oracle.assert_bitwise_equal(fpes.noise(kind, 5, **where, count=40_001, first=3), whole)


def test_gaussian_is_the_same_everywhere(isa):
    where = {"layer": 0, "role": "weight", "pair": 1, "generation": 2}
    got = fpes.noise("gaussian", 6, **where, count=100_003, first=1)
    fpes.set_isa("baseline")
    oracle.assert_bitwise_equal(got, fpes.noise("gaussian", 6, **where, count=100_003, first=1), isa)


@pytest.mark.parametrize(
    ("kind", "variance", "kurtosis"), [("binomial", 4, 2.875), ("rademacher", 1, 1), ("gaussian", 1, 3)]
)
def test_moments(isa, kind, variance, kurtosis):
    count = 400_000
    z = fpes.noise(kind, 7, layer=0, role="weight", pair=0, generation=0, count=count).astype(np.float64)
    z /= np.sqrt(variance)
    # Five standard errors of normal noise: more than the others have.
    assert abs(z.mean()) < 5 / np.sqrt(count)
    assert abs(np.mean(z**2) - 1) < 5 * np.sqrt(2 / count)
    assert abs(np.mean(z**3)) < 5 * np.sqrt(15 / count)
    assert abs(np.mean(z**4) - kurtosis) < 5 * np.sqrt(96 / count)
    for lag in (1, 2, 3, 4, 8, 128):
        assert abs(np.mean(z[lag:] * z[:-lag])) < 5 / np.sqrt(count - lag)


streams = st.tuples(
    st.sampled_from([0, 1, 2**32, 2**64 - 1]),  # seed
    st.integers(0, 9),  # layer
    st.sampled_from(sorted(ROLES)),
    st.one_of(st.integers(0, 9), st.integers(0, LARGEST)),  # pair
    st.one_of(st.integers(0, 9), st.integers(0, LARGEST)),  # generation
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(one=streams, other=streams)
def test_no_two_streams_share_noise(kind, one, other):
    """A well-known peer uses one member's noise again for another member's next layer, shifted or not."""

    def draw(stream):
        seed, layer, role, pair, generation = stream
        return fpes.noise(kind, seed, layer=layer, role=role, pair=pair, generation=generation, count=1024)

    if one == other:
        oracle.assert_bitwise_equal(draw(one), draw(other))
        return
    # Blocks of 64 elements agree nowhere, at no distance that is a multiple of a block of the generator.
    a, b = ({row.tobytes() for row in draw(stream).reshape(-1, 128)} for stream in (one, other))
    assert len(a) == len(b) == 8
    assert not a & b


def test_neighbouring_streams_are_unrelated():
    """Layers, roles, pairs and generations that differ by one, all against all, by correlation."""
    names = [
        (layer, role, pair, generation)
        for layer in (0, 1)
        for role in ROLES
        for pair in (0, 1, 2)
        for generation in (0, 1, 2)
    ]
    count = 4096
    z = np.stack(
        [
            fpes.noise("rademacher", 8, layer=layer, role=role, pair=pair, generation=generation, count=count)
            for layer, role, pair, generation in names
        ]
    )
    correlation = z @ z.T / count
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 6 / np.sqrt(count)


class TestRefusals:
    where: ClassVar = {"layer": 0, "role": "weight", "pair": 0, "generation": 0, "count": 8}

    @pytest.mark.parametrize(
        ("name", "value"),
        [("pair", -1), ("pair", 2**32), ("generation", 2**32), ("layer", -1), ("count", -1), ("first", -1)],
    )
    def test_ranges(self, name, value):
        with pytest.raises(ValueError, match=name):
            fpes.noise("binomial", 0, **(self.where | {name: value}))

    def test_names(self):
        with pytest.raises(ValueError, match="pink"):
            fpes.noise("pink", 0, **self.where)
        with pytest.raises(ValueError, match="colour"):
            fpes.noise("binomial", 0, **(self.where | {"role": "colour"}))

    @pytest.mark.parametrize("seed", [-1, 2**64])
    def test_seeds(self, seed):
        with pytest.raises(ValueError, match="seed"):
            fpes.noise("binomial", seed, **self.where)
