"""What bad input gets: an exception that names the argument, what came and what was expected, before any work."""

from __future__ import annotations

import numpy as np
import pytest

import fpes

NET = fpes.LinearNetwork([4, 6, 3])
THETA = NET.init(0)
X = np.ones((5, 4), np.float32)
Y = np.array([0, 1, 2, 0, 1])


def population(**changes):
    return fpes.Population(NET, changes.pop("theta", THETA), **{"size": 8, "sigma": 0.1, **changes})


def with_value(array, value):
    changed = array.copy()
    changed.flat[1] = value
    return changed


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fpes.gemm(X.astype(float), X), TypeError, "a has dtype float64.*astype"),
        (lambda: fpes.gemm([[1.0]], X), TypeError, "a is a list"),
        (lambda: fpes.gemm(X[0], X), ValueError, r"a has shape \(4,\), expected \[m, k\]"),
        (lambda: fpes.gemm(X, X), ValueError, r"b has shape \(5, 4\), expected \[4, n\]"),
        (lambda: fpes.gemm(X[:0], X.T), ValueError, r"a has shape \(0, 4\).*empty"),
        (lambda: fpes.gemm(X, X.T, flush="sometimes"), ValueError, "flush is 'sometimes'.*'boundary'"),
        (lambda: fpes.bias_add(X, X[0, :3]), ValueError, r"b has shape \(3,\), expected \[4\]"),
        (lambda: fpes.multiply(X, 1e39), ValueError, r"s is 1e\+39.*float32"),
        (lambda: fpes.multiply(X, "much"), TypeError, "s is 'much'"),
        (lambda: fpes.multiply(X[:0], 1.0), ValueError, r"v has shape \(0, 4\)"),
    ],
)
def test_primitives_refuse(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"sizes": [4]}, ValueError, "sizes has 1 numbers"),
        ({"sizes": 784}, TypeError, "sizes is 784, expected inputs, widths and outputs"),
        ({"sizes": [4, 0, 3]}, ValueError, r"sizes\[1\] is 0"),
        ({"sizes": [4, 2.5, 3]}, TypeError, r"sizes\[1\] is 2.5"),
        ({"sizes": [2**31, 2]}, ValueError, r"sizes\[0\] is 2147483648"),
        ({"sizes": [2**20, 2**20]}, ValueError, "parameters, expected fewer"),
        ({"sizes": [4, 3], "scaling": 3.0}, ValueError, "scaling is 3.0, expected a power of two"),
        ({"sizes": [4, 3], "scaling": 2.0**127}, ValueError, "power of two from"),
        ({"sizes": [4, 3], "scaling": 0.0}, ValueError, "scaling is 0.0"),
        ({"sizes": [4, 3], "scaling": -2.0}, ValueError, "scaling is -2.0"),
        ({"sizes": [4, 3], "scaling": float("inf")}, ValueError, "scaling is inf"),
        ({"sizes": [4, 3], "flush": "on"}, ValueError, "flush is 'on'"),
    ],
)
def test_network_refuses(arguments, error, words):
    with pytest.raises(error, match=words):
        fpes.LinearNetwork(**arguments)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: NET(THETA[:-1], X), ValueError, "theta has shape"),
        (lambda: NET(with_value(THETA, np.nan), X), ValueError, "theta has 1 values.*nan at index 1"),
        (lambda: NET(with_value(THETA, np.inf), X), ValueError, "theta has 1 values.*inf at index 1"),
        (lambda: NET(THETA.astype(float), X), TypeError, "theta has dtype float64"),
        (lambda: NET(THETA, X[:, :3]), ValueError, r"x has shape \(5, 3\), expected \[batch, 4\]"),
        (lambda: NET(THETA, X[:0]), ValueError, r"x has shape \(0, 4\)"),
        (lambda: NET.unpack(np.zeros(2 * NET.parameters, np.float32)[::2]), ValueError, "not contiguous"),
        (lambda: NET.init(-1), ValueError, "seed is -1"),
        (lambda: NET.init(2**64), ValueError, "seed is"),
    ],
)
def test_forward_refuses(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"size": 7}, ValueError, "size is 7, expected an even number"),
        ({"size": 0}, ValueError, "size is 0"),
        ({"size": 8.0}, TypeError, "size is 8.0"),
        ({"size": 2**34}, ValueError, "size is"),
        ({"sigma": 0.0}, ValueError, "sigma is 0.0"),
        ({"sigma": -1.0}, ValueError, "sigma is -1.0"),
        ({"sigma": float("nan")}, ValueError, "sigma is nan"),
        ({"sigma": 1e39}, ValueError, r"sigma is 1e\+39, expected a number from 2\*\*-126 to 2\*\*100"),
        ({"sigma": 1e-40}, ValueError, "sigma is 1e-40, expected a number from"),
        ({"sigma": 10**400}, ValueError, "sigma is beyond what a float can hold"),
        ({"theta": with_value(THETA, np.nan)}, ValueError, "theta has 1 values"),
        ({"perturbation": "full"}, TypeError, "perturbation is 'full'"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"generation": 2**32}, ValueError, "generation is 4294967296"),
    ],
)
def test_population_refuses(changes, error, words):
    with pytest.raises(error, match=words):
        population(**changes)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: population().evaluate(X, Y[:-1]), ValueError, r"y has shape \(4,\), expected \[5\]"),
        (lambda: population().evaluate(X, Y + 1), ValueError, "y has labels from 1 to 3, expected 0 to 2"),
        (lambda: population().evaluate(X, Y - 1), ValueError, "y has labels from -1 to 1"),
        (lambda: population().evaluate(X, Y.astype(float)), TypeError, "y has dtype float64"),
        (lambda: population().evaluate(X, Y, loss="hinge"), ValueError, "loss is 'hinge'"),
        (lambda: population().forward(X[:0]), ValueError, r"x has shape \(0, 4\)"),
        (lambda: population().member(8), ValueError, "i is 8, expected 0 to 7"),
        (lambda: population().gradient(np.zeros(7, np.float32)), ValueError, r"weights has shape \(7,\)"),
        (lambda: population().gradient(np.full(8, np.nan, np.float32)), ValueError, "weights has 8 values"),
        (lambda: population().gradient(np.zeros(8)), TypeError, "weights has dtype float64"),
        (lambda: population().gradient(np.full(8, 2**54)), ValueError, "weights has integers up to 18014398509481984"),
        (lambda: population(perturbation=fpes.NodePerturbation()).member(0), ValueError, "no parameters of its own"),
        (
            lambda: population(perturbation=fpes.NodePerturbation()).gradient(np.zeros(8, np.float32)),
            ValueError,
            "needs a batch",
        ),
    ],
)
def test_population_methods_refuse(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fpes.LowRank(rank=0), ValueError, "rank is 0"),
        (lambda: fpes.LowRank(allocation=fpes.OneLayer(pairs=3)), TypeError, "pairs is 3, expected a sequence"),
        (lambda: fpes.FullRank(noise="uniform"), ValueError, "noise is 'uniform'"),
        (lambda: fpes.set_threads(0), ValueError, "count is 0"),
        (lambda: fpes.set_threads(1.5), ValueError, "count is 1.5"),
        (lambda: fpes.set_isa("neon"), ValueError, "isa is 'neon'.*baseline"),
        (lambda: fpes.centred_ranks(np.array([1, np.nan], np.float32)), ValueError, "NaN for 1 of 2"),
        (lambda: fpes.noise("binomial", 0, layer=0, role="weights", count=1), ValueError, "role is 'weights'"),
        (
            lambda: fpes.noise("binomial", 0, layer=0, role="weight", count=2, first=8 * 2**32 - 1),
            ValueError,
            "count is",
        ),
    ],
)
def test_others_refuse(call, error, words):
    with pytest.raises(error, match=words):
        call()


def misaligned(array):
    """A copy whose elements don't begin at multiples of their size."""
    memory = np.zeros(array.nbytes + 1, np.uint8)
    copy = memory[1:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    assert not copy.flags.aligned
    return copy


def test_misaligned_arrays_are_copied():
    want = population().evaluate(X, Y)
    got = population(theta=misaligned(THETA)).evaluate(misaligned(X), misaligned(Y))
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(NET(misaligned(THETA), misaligned(X)), NET(THETA, X))
    np.testing.assert_array_equal(fpes.gemm(misaligned(X), misaligned(X.T)), fpes.gemm(X, X.T))
    ranks = fpes.centred_ranks(misaligned(np.array(want)))
    np.testing.assert_array_equal(population().gradient(misaligned(ranks)), population().gradient(ranks))


def test_arrays_with_gaps_are_copied_not_misread():
    wide = np.arange(40, dtype=np.float32).reshape(5, 8)
    np.testing.assert_array_equal(fpes.gemm(wide[:, ::2], X.T), fpes.gemm(wide[:, ::2].copy(), X.T))
    np.testing.assert_array_equal(NET(THETA, wide[:, ::2]), NET(THETA, wide[:, ::2].copy()))
