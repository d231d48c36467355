"""Fitness shaping against its definitions, in groups and sample by sample."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fpes.shaping import SHAPINGS, all_equal, centred_ranks, signs, z_scores

finite = st.floats(-100, 100, width=32)
fitnesses = arrays.arrays(np.float32, st.integers(1, 20).map(lambda n: 2 * n), elements=finite)


def test_centred_ranks_are_those_of_the_oracle():
    rng = np.random.default_rng(0)
    for values in (rng.standard_normal(50), rng.integers(0, 4, 64), np.zeros(6), [0.0, -0.0, -np.inf, np.inf]):
        fitness = np.asarray(values, np.float32)
        np.testing.assert_array_equal(centred_ranks(fitness), oracle.centred_ranks(fitness))


@given(fitnesses)
def test_ranks_of_anything(fitness):
    np.testing.assert_array_equal(centred_ranks(fitness), oracle.centred_ranks(fitness))
    assert centred_ranks(fitness).sum() == 0


@given(fitnesses)
def test_z_scores_of_anything(fitness):
    scores, wide = z_scores(fitness), fitness.astype(np.float64)
    if np.ptp(wide) == 0:
        assert (scores == 0).all()
    else:
        np.testing.assert_allclose(scores, (wide - wide.mean()) / wide.std(), rtol=1e-4, atol=1e-4)


@given(fitnesses)
def test_signs_of_anything(fitness):
    expected = np.sign(fitness[0::2].astype(np.float64) - fitness[1::2])
    np.testing.assert_array_equal(signs(fitness)[0::2], expected)
    np.testing.assert_array_equal(signs(fitness)[1::2], -expected)


@pytest.mark.parametrize("shape", [centred_ranks, z_scores, signs])
def test_groups_and_samples_are_shaped_by_themselves(shape):
    fitness = np.random.default_rng(1).integers(0, 9, (12, 5)).astype(np.float32)
    whole = shape(fitness, 3)
    assert whole.shape == (12, 5)
    for group in range(3):
        for sample in range(5):
            members = slice(4 * group, 4 * group + 4)
            np.testing.assert_array_equal(whole[members, sample], shape(fitness[members, sample].copy()))


def test_a_groups_own_baseline_drops_out():
    """Adding to a group what its samples have in common changes nothing."""
    rng = np.random.default_rng(2)
    fitness = rng.integers(-8, 8, 40).astype(np.float32)
    harder = fitness - np.repeat([0, 64, 16, 128], 10).astype(np.float32)
    for name, shaping in SHAPINGS.items():
        if name != "none":
            np.testing.assert_array_equal(shaping(fitness, 4).values, shaping(harder, 4).values)


@pytest.mark.parametrize("groups", [1, 4])
def test_ranks_weigh_the_same_for_any_population(groups):
    for size in (8, 64):
        weights = SHAPINGS["centred_ranks"](np.arange(size, dtype=np.float32), groups)
        assert weights.values.max() * weights.factor == 0.5
        assert weights.values.min() * weights.factor == -0.5


def test_nan_is_named():
    fitness = np.zeros((6, 3), np.float32)
    fitness[4, 1] = np.nan
    for shape in (centred_ranks, z_scores, signs):
        with pytest.raises(ValueError, match="NaN for 1 of 6 members, the first 4"):
            shape(fitness)


def test_infinity_has_a_rank_but_no_mean():
    fitness = np.array([1, -np.inf, 2, 0], np.float32)
    np.testing.assert_array_equal(centred_ranks(fitness), [1, -3, 3, -1])
    with pytest.raises(ValueError, match="infinite for some members"):
        z_scores(fitness)


def test_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="fitness has 6 members, which 4 groups don't divide evenly"):
        centred_ranks(np.zeros(6, np.float32), 4)


def test_all_equal():
    flat = np.repeat(np.float32([1, 2, 3]), 4)
    assert all_equal(flat, 3)
    assert not all_equal(flat, 1)
    assert all_equal(np.tile(np.float32([1, 2]), (4, 1)), 1)
    flat[5] += 1
    assert not all_equal(flat, 3)
