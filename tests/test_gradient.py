"""The gradient estimate: exact integers, fixed-order floats, and the estimator of node perturbation."""

from __future__ import annotations

import functools

import numpy as np
import oracle
import pytest
from test_population import FAMILIES, SMALL, SMALL_BATCH, population, reference, setting

import fpes

SIZES, BATCH = (33, 70, 9), 9
WEIGHT_FAMILIES = [name for name in FAMILIES if name != "node"]
each_weight_family = pytest.mark.parametrize("family", WEIGHT_FAMILIES)
each_kind = pytest.mark.parametrize("kind", ["binomial", "rademacher"])


def integer_weights(size: int, largest: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-largest, largest + 1, size).astype(np.int32)


def check(weights, family, kind="binomial", sizes=SIZES, what="gradient"):
    got = population(sizes, BATCH, family, kind, size=weights.size).gradient(weights)
    want = reference(sizes, BATCH, family, kind, size=weights.size).gradient(weights)
    oracle.assert_bitwise_equal(got, want, f"{what}: {family}, {kind}, {weights.size} members")


@each_weight_family
@each_kind
def test_centred_ranks(isa, family, kind):
    for size in (2, 6, 34):
        values = np.random.default_rng(size).standard_normal(size).astype(np.float32)
        check(oracle.centred_ranks(values).astype(np.int32), family, kind)


@each_weight_family
@pytest.mark.parametrize("bits", [10, 16, 18])
def test_integers_that_need_more_than_a_float(isa, family, bits):
    """The exact sum passes 2^24, so a float accumulator has to be emptied in time."""
    largest = 2 ** (bits - 1) // FAMILIES[family][1]  # the difference of two, times 64 rank, is at most 2^24
    weights = integer_weights(64, largest, bits)
    weights[::2], weights[1::2] = np.abs(weights[::2]), -np.abs(weights[1::2])
    check(weights, family, sizes=(17, 33, 5))


def exact_gradient(weights, family, kind, sizes) -> np.ndarray:
    """Sums of Python's integers, converted to double, scaled, and rounded."""
    size, rank = len(weights), FAMILIES[family][1]
    ref = reference(sizes, BATCH, family, kind, size=size)
    unit = {"binomial": 0.5, "rademacher": 1.0}[kind]
    result = np.zeros(ref.network.parameters, np.float32)
    for layer, (weight, bias) in enumerate(ref.network.unpack(result)):
        totals = {"weight": np.zeros(weight.shape, object), "bias": np.zeros(bias.shape, object)}
        for pair in range(size // 2):
            d = int(weights[2 * pair]) - int(weights[2 * pair + 1])

            def draw(role, shape, layer=layer, pair=pair):
                return ref.draw(layer, ROLES[role], pair, shape).astype(object)

            totals["bias"] += d * draw("bias", bias.shape)
            if family == "full":
                totals["weight"] += d * draw("weight", weight.shape)
            else:
                left, right = draw("factor_a", (rank, weight.shape[0])), draw("factor_b", (rank, weight.shape[1]))
                totals["weight"] += d * (left.T @ right)
        scales = {"bias": unit / (size * ref.sigma), "weight": unit / (size * ref.sigma)}
        if family != "full":
            scales["weight"] = unit * unit / (np.sqrt(float(rank)) * size * ref.sigma)
        for out, name in ((weight, "weight"), (bias, "bias")):
            doubles = np.vectorize(float, otypes=[float])(totals[name])
            out[...] = oracle.to_float32(doubles * scales[name])
    return result


ROLES = {"weight": 0, "bias": 1, "factor_a": 2, "factor_b": 3}


@each_weight_family
@each_kind
@pytest.mark.parametrize("largest", [2**11, 2**17, 2**20, 2**24, 2**33, 2**53])
def test_integers_of_any_size(isa, threads, family, kind, largest):
    """Those of ranks among as many members as there may be, and beyond: sums pass 2^53, and are rounded once."""
    rng = np.random.default_rng(largest.bit_length())
    weights = rng.integers(-largest, largest + 1, 40)
    weights[:6] = largest, -largest, largest - 1, 1 - largest, -largest, largest
    got = population((9, 17, 3), BATCH, family, kind, size=40).gradient(weights)
    oracle.assert_bitwise_equal(got, exact_gradient(weights, family, kind, (9, 17, 3)), f"{largest}, {isa}")


@each_weight_family
def test_larger_integers_are_refused(family):
    weights = np.array([2**53, -(2**53), 3, 4, 5, 6])
    population((17, 33, 5), BATCH, family, size=6).gradient(weights)
    weights[3] = 2**53 + 1
    with pytest.raises(ValueError, match=f"{2**53 + 1}.*exact"):
        population((17, 33, 5), BATCH, family, size=6).gradient(weights)


@pytest.mark.parametrize("perturbation", [fpes.FullRank(), fpes.LowRank(1), fpes.LowRank(allocation=fpes.OneLayer(2))])
def test_ranks_of_a_large_population(perturbation):
    """More members than ranks of 20 bits are enough for: evaluated, ranked, and learnt from."""
    net, size = fpes.LinearNetwork([2, 3]), 2**20 + 2
    es = fpes.ES(net, net.init(0), size=size, sigma=0.05, perturbation=perturbation)
    evaluation = es.ask().evaluate(np.ones((1, 2), np.float32), [0])
    ranks = fpes.centred_ranks(evaluation)
    assert ranks.max() > 2**19
    es.tell(evaluation)
    assert es.generation == 1


@pytest.mark.parametrize("rank", [4, 16, 64])
def test_the_largest_integers_of_high_rank(isa, rank):
    """Each term fits 24 bits, and the sum of one pair's terms over the rank does not."""
    sizes, largest = (40, 40), 2**17
    theta = np.zeros(oracle.Network(sizes).parameters, np.float32)
    weights = np.array([largest - 1, -largest, largest - 3, 2 - largest, 7, 1 - largest], np.int32)
    low_rank = fpes.LowRank(rank=rank)
    got = fpes.Population(fpes.LinearNetwork(sizes), theta, size=6, sigma=0.3, perturbation=low_rank).gradient(weights)
    want = oracle.Population(oracle.Network(sizes), theta, 6, 0.3, perturbation="lowrank", rank=rank).gradient(weights)
    oracle.assert_bitwise_equal(got, want, f"rank {rank}, {isa}")


@pytest.mark.parametrize("difference", [3991, 4095, 4096, 8191, 2**18 - 1])
def test_more_terms_than_32_bits_are_sure_to_hold(isa, difference):
    """256 pairs of rank 64, in runs of which the first (of 3991: an odd number) ends where it might pass 2^31; as one
    digit up to 4095, then two; and several blocks of rows, where sums go on from step to step.
    """
    sizes, size = (130, 33), 512
    theta = np.zeros(oracle.Network(sizes).parameters, np.float32)
    pair = np.array([difference // 2, difference // 2 - difference], np.int32)
    weights = np.concatenate([pair, -pair, np.tile(pair, size // 2 - 2)])
    low_rank = fpes.LowRank(rank=64)
    got = fpes.Population(fpes.LinearNetwork(sizes), theta, size=size, sigma=0.3, perturbation=low_rank)
    want = oracle.Population(oracle.Network(sizes), theta, size, 0.3, perturbation="lowrank", rank=64)
    oracle.assert_bitwise_equal(got.gradient(weights), want.gradient(weights), f"{difference}, {isa}")


@each_weight_family
@each_kind
def test_floats(isa, family, kind):
    for size in (2, 34):
        weights = np.random.default_rng(size).standard_normal(size).astype(np.float32)
        weights[0] = 1e-40
        check(weights, family, kind)


@each_weight_family
def test_many_pairs(isa, family):
    """More (pair, rank) terms than any block holds."""
    size = 700
    check(integer_weights(size, 300), family, sizes=(9, 7, 3))
    check(np.random.default_rng(1).standard_normal(size).astype(np.float32), family, sizes=(9, 7, 3))


def test_more_rows_and_elements_than_a_block(isa):
    weights = integer_weights(4, 100)
    check(weights, "lowrank3", sizes=(401, 33, 2))
    check(weights, "full", sizes=(401, 33, 2))
    floats = weights.astype(np.float32) / 3
    check(floats, "lowrank1", sizes=(401, 33, 2))
    check(floats, "full", sizes=(401, 33, 2))


@each_weight_family
def test_nothing_depends_on_threads_or_mode(isa, threads, family):
    for weights in (integer_weights(34, 1000), integer_weights(34, 1000).astype(np.float32) / 7):
        got = [population((257, 33, 5), BATCH, family, flush=f, size=34).gradient(weights) for f in oracle.FLUSH_MODES]
        fpes.set_threads(1)
        want = population((257, 33, 5), BATCH, family, size=34).gradient(weights)
        fpes.set_threads(threads)
        for one in got:
            oracle.assert_bitwise_equal(one, want, f"{threads} threads, {isa}")


@each_weight_family
def test_gaussian(isa, family):
    rank = FAMILIES[family][1]
    size, sizes = 12, (17, 33, 5)
    weights = np.random.default_rng(2).standard_normal(size).astype(np.float32)
    pop, network = population(sizes, BATCH, family, "gaussian", size=size), oracle.Network(sizes)
    want = np.zeros(network.parameters)
    for layer, (weight, bias) in enumerate(network.unpack(want)):
        fan_in, fan_out = network.shape(layer)
        for pair in range(size // 2):
            d = (float(weights[2 * pair]) - float(weights[2 * pair + 1])) / (size * 0.3)

            def draw(role, *shape, layer=layer, pair=pair):
                count = int(np.prod(shape))
                seed, generation = 0xFEDCBA9876543210, 5
                z = fpes.noise("gaussian", seed, layer=layer, role=role, pair=pair, generation=generation, count=count)
                return z.astype(float).reshape(shape)

            bias += d * draw("bias", fan_out)
            if family == "full":
                weight += d * draw("weight", fan_in, fan_out)
            else:
                weight += d * draw("factor_a", rank, fan_in).T @ draw("factor_b", rank, fan_out) / np.sqrt(rank)
    got = pop.gradient(weights)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    # Integer weights mean the same numbers.
    whole = np.rint(weights * 100).astype(np.int32)
    np.testing.assert_allclose(
        pop.gradient(whole), pop.gradient(whole.astype(np.float32)), rtol=1e-5, atol=1e-5 * np.abs(want).max() * 100
    )
    fpes.set_isa("baseline")
    oracle.assert_bitwise_equal(got, pop.gradient(weights), isa)


def inputs_of_pair(ref: oracle.Population, x: np.ndarray, pair: int) -> dict[tuple[int, int], np.ndarray]:
    """What goes into each layer, float32 [batch, fan_in], by sign (0 for +) and layer."""
    seen = {}
    for member in (2 * pair, 2 * pair + 1):

        def perturb(layer, inputs, acc, member=member):
            seen[member % 2, layer] = inputs
            return ref._add_node_noise(member, layer, inputs, acc)

        oracle.forward(ref.network, ref.theta, x, perturb)
    return seen


def node_gradient(flush: str, kind: str, weights: np.ndarray) -> np.ndarray:
    """The estimator in float64, from the oracle's activations: [parameters]."""
    size = weights.shape[0]
    ref = reference(SMALL, SMALL_BATCH, "node", kind, flush, size=size)
    network, x = ref.network, setting(SMALL, SMALL_BATCH)[1]
    unit = {"binomial": 0.5, "rademacher": 1.0}[kind]
    wide = weights.astype(float)
    total = np.zeros(network.parameters)
    for pair in range(size // 2):
        seen = {key: oracle.widen(inputs) for key, inputs in inputs_of_pair(ref, x, pair).items()}
        difference = wide[2 * pair] - wide[2 * pair + 1]
        for layer, (weight, bias) in enumerate(network.unpack(total)):
            scale = 1.0 if layer == 0 else network.scaling
            z = ref.draw(layer, 4, pair, (SMALL_BATCH, network.shape(layer)[1]))
            signal = z * (difference[:, None] if weights.ndim == 2 else difference)
            weight += (seen[0, layer] + seen[1, layer]).T / 2 * scale @ signal
            bias += signal.sum(axis=0)
    total *= unit / (size * ref.sigma * (SMALL_BATCH if weights.ndim == 2 else 1))
    for layer, ((_, bias), (_, value)) in enumerate(zip(network.unpack(total), network.unpack(ref.theta), strict=True)):
        if layer > 0 and flush != "never":
            bias[np.abs(value) < 0.5] = 0.0
    return total


def node_setting(sizes, batch: int, size: int, largest: float, density: float) -> tuple[np.ndarray, np.ndarray]:
    """x with so many nonzeros, and weights [size, batch] up to `largest`."""
    rng = np.random.default_rng(6)
    x = setting(sizes, batch)[1] * (rng.random((batch, sizes[0])) < density)
    weights = rng.uniform(-1, 1, (size, batch)) * largest
    return x.astype(np.float32), weights.astype(np.float32)


@functools.lru_cache
def node_gradient_in_order(sizes, batch: int, size: int, largest: float, density: float) -> np.ndarray:
    """By the order that is promised: a float32 sum over pairs, then over samples: [parameters]."""
    x, weights = node_setting(sizes, batch, size, largest, density)
    ref = reference(sizes, batch, "node", size=size)
    total = np.zeros(ref.network.parameters, np.float32)
    sums = ref.network.unpack(total)
    for pair in range(size // 2):
        seen = inputs_of_pair(ref, x, pair)
        difference = oracle.add(weights[2 * pair], oracle.negate(weights[2 * pair + 1]), ftz=False)
        for layer, (weight, bias) in enumerate(sums):
            half_unit = np.float32(0.5 if layer == 0 else 0.5 * ref.network.scaling)
            mean = oracle.mul(oracle.add(seen[0, layer], seen[1, layer], ftz=False), half_unit, ftz=False)
            z = ref.draw(layer, 4, pair, (batch, weight.shape[1])).astype(np.float32)
            noise = oracle.mul(z, difference[:, None], ftz=False)
            for sample in range(batch):
                weight[...] = oracle.fma(mean[sample][:, None], noise[sample], weight, ftz=False)
                bias[...] = oracle.fma(np.float32(1.0), noise[sample], bias, ftz=False)
    total[...] = oracle.to_float32(oracle.widen(total) * (0.5 / (size * batch * ref.sigma)))
    for (_, bias), (_, value) in list(zip(sums, ref.network.unpack(ref.theta), strict=True))[1:]:
        bias[np.abs(value) < 0.5] = 0.0
    return total


class TestNode:
    @pytest.mark.parametrize("density", [0.1, 1.0])
    @pytest.mark.parametrize(
        ("sizes", "batch", "size", "largest"),
        [
            (SMALL, SMALL_BATCH, 8, 1.0),
            (SMALL, SMALL_BATCH, 8, 1e-44),
            (SMALL, SMALL_BATCH, 8, 3e38),
            ((150, 12, 5), 100, 24, 1.0),
            ((9, 12, 5), 1100, 2, 1.0),
        ],
        ids=["ordinary", "subnormal", "overflowing", "many pairs and rows", "many samples"],
    )
    def test_bits(self, isa, sizes, batch, size, largest, density):
        """Also where terms are kept in several pieces, of pairs or of samples, and rows in several blocks.

        Terms whose input is zero may be left out, unless their noise is infinite: then they are NaN.
        """
        where = (sizes, batch, size, largest, density)
        x, weights = node_setting(*where)
        pop = population(sizes, batch, "node", size=size)
        evaluation = pop.evaluate(x, None, lambda outputs, y: weights)
        with np.errstate(over="ignore", invalid="ignore"):
            want = node_gradient_in_order(*where)
        assert np.isnan(want).any() == (largest > 1.0)
        oracle.assert_bitwise_equal(pop.gradient(weights, evaluation), want, isa)

    @pytest.mark.parametrize("flush", oracle.FLUSH_MODES)
    @each_kind
    @pytest.mark.parametrize("shape", [(8,), (8, SMALL_BATCH)], ids=["members", "samples"])
    def test_estimator(self, isa, flush, kind, shape):
        _, x, _ = setting(SMALL, SMALL_BATCH)
        weights = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
        pop = population(SMALL, SMALL_BATCH, "node", kind, flush, size=8)
        evaluation = pop.evaluate(x, None, lambda outputs, y: weights)
        got, want = pop.gradient(evaluation), node_gradient(flush, kind, weights)
        network = oracle.Network(SMALL)
        for layer, ((weight, bias), (w, b)) in enumerate(zip(network.unpack(got), network.unpack(want), strict=True)):
            np.testing.assert_allclose(weight, w, rtol=1e-4, atol=1e-5 * np.abs(w).max(), err_msg=f"layer {layer}")
            np.testing.assert_allclose(bias, b, rtol=1e-4, atol=1e-5 * np.abs(b).max(), err_msg=f"layer {layer}")
            if layer > 0:
                assert np.any(bias == 0) == (flush != "never")

    def test_the_same_in_every_instruction_set_and_with_any_threads(self, isa, threads):
        _, x, y = setting(SMALL, SMALL_BATCH)
        pop = population(SMALL, SMALL_BATCH, "node", size=80)  # several runs of the terms that are kept at a time
        weights = pop.evaluate(x, y, per_sample=True)
        got = pop.gradient(weights), pop.gradient(pop.evaluate(x, y))
        fpes.set_isa("baseline")
        fpes.set_threads(1)
        oracle.assert_bitwise_equal(got[0], pop.gradient(weights), f"{isa}, {threads} threads")
        oracle.assert_bitwise_equal(got[1], pop.gradient(pop.evaluate(x, y)), f"{isa}, {threads} threads")

    def test_it_needs_a_batch(self):
        with pytest.raises((ValueError, RuntimeError), match="needs a batch"):
            population(SMALL, SMALL_BATCH, "node").gradient(np.ones(6, np.float32))


class TestRefusals:
    def test_shapes(self):
        pop = population(SIZES, BATCH, "full", size=6)
        for shape in [(5,), (7,), (6, 1), ()]:
            with pytest.raises(ValueError, match=r"6|shape|weights"):
                pop.gradient(np.zeros(shape, np.float32))

    @pytest.mark.parametrize("dtype", [np.float64, np.float16, np.complex64])
    def test_types(self, dtype):
        with pytest.raises(TypeError, match=np.dtype(dtype).name):
            population(SIZES, BATCH, "full", size=6).gradient(np.zeros(6, dtype))
