"""Perturbed members and their fitness, bit for bit."""

from __future__ import annotations

import functools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
from test_network import images, random_theta

import fpes

MODES = oracle.FLUSH_MODES
every_mode = pytest.mark.parametrize("flush", MODES)
each_kind = pytest.mark.parametrize("kind", ["binomial", "rademacher"])
FAMILIES = {"full": ("full", 1), "lowrank1": ("lowrank", 1), "lowrank3": ("lowrank", 3), "node": ("node", 1)}
each_family = pytest.mark.parametrize("family", FAMILIES)
SMALL, SMALL_BATCH = (13, 17, 9, 5), 67
LARGE, LARGE_BATCH = (33, 65, 34, 11), 130
SIGMA, SEED, GENERATION = 0.3, 0xFEDCBA9876543210, 5


def perturbation(family: str, kind: str):
    name, rank = FAMILIES[family]
    if name == "full":
        return fpes.FullRank(noise=kind)
    return fpes.LowRank(rank=rank, noise=kind) if name == "lowrank" else fpes.NodePerturbation(noise=kind)


@functools.lru_cache
def setting(sizes: tuple[int, ...], batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(theta, x, labels)."""
    rng = np.random.default_rng(batch)
    return (
        random_theta(rng, oracle.Network(sizes)),
        images(rng, batch, sizes[0]),
        rng.integers(0, sizes[-1], batch).astype(np.int32),
    )


def population(sizes, batch, family, kind="binomial", flush="boundary", size=6, **changes):
    theta = setting(sizes, batch)[0]
    options = {"sigma": SIGMA, "seed": SEED, "generation": GENERATION} | changes
    net = fpes.LinearNetwork(sizes, flush=flush)
    return fpes.Population(net, theta, size=size, perturbation=perturbation(family, kind), **options)


def reference(sizes, batch, family, kind="binomial", flush="boundary", size=6, **changes):
    name, rank = FAMILIES[family]
    options = {"sigma": SIGMA, "seed": SEED, "generation": GENERATION} | changes
    net = oracle.Network(sizes, flush=flush)
    return oracle.Population(net, setting(sizes, batch)[0], size, perturbation=name, kind=kind, rank=rank, **options)


@functools.lru_cache
def expected_forward(sizes, batch, family, kind="binomial", flush="boundary", size=6) -> np.ndarray:
    return reference(sizes, batch, family, kind, flush, size).forward(setting(sizes, batch)[1])


@each_family
@each_kind
@every_mode
def test_forward(isa, family, kind, flush):
    where = (SMALL, SMALL_BATCH, family, kind, flush)
    got = population(*where).forward(setting(SMALL, SMALL_BATCH)[1])
    oracle.assert_bitwise_equal(got, expected_forward(*where), f"{family}, {kind}, {flush}, {isa}")


@each_family
def test_forward_of_a_wider_network(isa, family):
    where = (LARGE, LARGE_BATCH, family, "binomial", "boundary", 4)
    got = population(*where).forward(setting(LARGE, LARGE_BATCH)[1])
    oracle.assert_bitwise_equal(got, expected_forward(*where), f"{family}, {isa}")


@each_family
@pytest.mark.parametrize("batch", [1, 5, 63, 64, 65, 128, 129])
def test_samples_do_not_depend_on_the_batch(isa, family, batch):
    """Sample i has the same outputs whatever comes after it."""
    where = (LARGE, LARGE_BATCH, family, "binomial", "boundary", 4)
    got = population(*where).forward(setting(LARGE, LARGE_BATCH)[1][:batch])
    oracle.assert_bitwise_equal(got, expected_forward(*where)[:, :batch], f"{family}, {isa}")


@each_family
def test_nothing_depends_on_threads(isa, threads, family):
    where = (SMALL, SMALL_BATCH, family, "binomial", "always", 6)
    _, x, y = setting(SMALL, SMALL_BATCH)
    pop = population(*where)
    oracle.assert_bitwise_equal(pop.forward(x), expected_forward(*where), f"{threads} threads")
    fitness, each = pop.evaluate(x, y), pop.evaluate(x, y, per_sample=True)
    fpes.set_threads(1)
    oracle.assert_bitwise_equal(fitness, pop.evaluate(x, y), f"{threads} threads")
    oracle.assert_bitwise_equal(each, pop.evaluate(x, y, per_sample=True), f"{threads} threads")


@each_family
def test_a_member_does_not_depend_on_the_size(isa, family):
    _, x, y = setting(SMALL, SMALL_BATCH)
    small, large = (population(SMALL, SMALL_BATCH, family, size=size) for size in (6, 26))
    oracle.assert_bitwise_equal(large.forward(x)[:6], small.forward(x))
    oracle.assert_bitwise_equal(large.evaluate(x, y)[:6], small.evaluate(x, y))


@each_family
def test_without_noise_all_members_are_the_network(isa, family):
    """A sigma so small that adding it changes no bits."""
    theta, x, _ = setting(SMALL, SMALL_BATCH)
    net = fpes.LinearNetwork(SMALL)
    got = population(SMALL, SMALL_BATCH, family, sigma=1e-36).forward(x)
    oracle.assert_bitwise_equal(got, np.repeat(net(theta, x)[None], 6, axis=0))


@each_family
def test_seed_and_generation_change_the_noise(isa, family):
    x = setting(SMALL, SMALL_BATCH)[1]
    base = population(SMALL, SMALL_BATCH, family).forward(x)
    for changes in ({"seed": SEED + 1}, {"seed": SEED ^ 1 << 40}, {"generation": GENERATION + 1}):
        other = population(SMALL, SMALL_BATCH, family, **changes)
        assert np.mean(other.forward(x) != base) > 0.2
        want = reference(SMALL, SMALL_BATCH, family, **changes, size=2).forward(x[:9])
        oracle.assert_bitwise_equal(other.forward(x[:9])[:2], want)


class TestMember:
    @each_kind
    @every_mode
    def test_full_rank(self, isa, kind, flush):
        x = setting(SMALL, SMALL_BATCH)[1]
        pop = population(SMALL, SMALL_BATCH, "full", kind, flush)
        want = reference(SMALL, SMALL_BATCH, "full", kind, flush)
        outputs = pop.forward(x)
        net = fpes.LinearNetwork(SMALL, flush=flush)
        for index in range(6):
            theta = pop.member(index)
            oracle.assert_bitwise_equal(theta, want.perturbed_theta(index), f"member {index}")
            oracle.assert_bitwise_equal(net(theta, x), outputs[index], f"member {index}")

    @pytest.mark.parametrize("family", ["lowrank1", "lowrank3"])
    def test_low_rank(self, isa, family):
        """The sum w + scale A B^T, rounded as it may be."""
        pop, want = population(SMALL, SMALL_BATCH, family), reference(SMALL, SMALL_BATCH, family)
        network = want.network
        scale = float(want.lowrank_scale)
        for index in range(4):
            sign = -1 if index % 2 else 1
            theta = pop.member(index)
            for layer, ((weight, bias), (base, _)) in enumerate(
                zip(network.unpack(theta), network.unpack(want.theta), strict=True)
            ):
                a, b = want.draw_factors(layer, index // 2)
                np.testing.assert_allclose(weight, base.astype(float) + sign * scale * (a.T @ b), rtol=1e-5, atol=1e-5)
                expected_bias = network.unpack(want._add_full_noise(index, weights=False))[layer][1]
                oracle.assert_bitwise_equal(bias, expected_bias, f"bias {layer} of member {index}")

    def test_low_rank_outputs_are_close(self, isa):
        """Where no underflow decides: the factors applied one by one, or the sum of both matrices."""
        theta, x, _ = setting(SMALL, SMALL_BATCH)
        net = fpes.LinearNetwork(SMALL, scaling=1.0)
        pop = fpes.Population(net, theta, size=4, sigma=0.3, perturbation=fpes.LowRank(rank=3))
        outputs = pop.forward(x)
        for index in range(4):
            np.testing.assert_allclose(net(pop.member(index), x), outputs[index], rtol=1e-4, atol=1e-4)

    def test_gaussian(self, isa):
        theta, x, _ = setting(SMALL, SMALL_BATCH)
        pop = population(SMALL, SMALL_BATCH, "full", "gaussian")
        net = fpes.LinearNetwork(SMALL)
        outputs = pop.forward(x)
        for index in range(4):
            oracle.assert_bitwise_equal(net(pop.member(index), x), outputs[index], f"member {index}")
        z = fpes.noise("gaussian", SEED, layer=0, role="weight", pair=1, generation=GENERATION, count=13 * 17)
        scale = oracle.negate(oracle.to_float32(np.float64(SIGMA)))
        want = oracle.fma(z, scale, theta[: 13 * 17], ftz=False)
        oracle.assert_bitwise_equal(pop.member(3)[: 13 * 17], want)

    def test_refusals(self):
        with pytest.raises(ValueError, match=r"(?i)node"):
            population(SMALL, SMALL_BATCH, "node").member(0)
        for index in (-1, 6):
            with pytest.raises((IndexError, ValueError), match=str(index)):
                population(SMALL, SMALL_BATCH, "full").member(index)


@each_family
def test_gaussian_noise_is_the_same_in_every_instruction_set(isa, family):
    _, x, y = setting(LARGE, LARGE_BATCH)
    pop = population(LARGE, LARGE_BATCH, family, "gaussian")
    outputs, fitness = pop.forward(x), pop.evaluate(x, y)
    fpes.set_isa("baseline")
    oracle.assert_bitwise_equal(outputs, pop.forward(x), isa)
    oracle.assert_bitwise_equal(fitness, pop.evaluate(x, y), isa)


class TestFitness:
    @each_family
    @pytest.mark.parametrize("batch", [1, 63, 64, 65, 127, 128, 130])
    def test_value(self, isa, family, batch):
        _, x, y = setting(LARGE, LARGE_BATCH)
        x, y = x[:batch], y[:batch]
        pop = population(LARGE, LARGE_BATCH, family, size=4)
        each, fitness = pop.evaluate(x, y, per_sample=True), pop.evaluate(x, y)
        assert fitness.dtype == each.dtype == np.float32
        assert fitness.shape == (4,)
        losses = oracle.cross_entropy(pop.forward(x), y)
        np.testing.assert_allclose(-each.astype(float), losses, rtol=1e-6, atol=1e-6)
        oracle.assert_bitwise_equal(fitness, oracle.fitness(oracle.negate(each)), f"{family}, batch {batch}, {isa}")

    @each_family
    @every_mode
    def test_the_same_in_every_instruction_set(self, isa, family, flush):
        _, x, y = setting(SMALL, SMALL_BATCH)
        pop = population(SMALL, SMALL_BATCH, family, flush=flush)
        each = pop.evaluate(x, y, per_sample=True)
        fpes.set_isa("baseline")
        oracle.assert_bitwise_equal(each, pop.evaluate(x, y, per_sample=True), isa)

    def test_many_samples(self, isa):
        rng = np.random.default_rng(3)
        x, y = images(rng, 1000, 13), rng.integers(0, 5, 1000)
        pop = population(SMALL, SMALL_BATCH, "full", size=2)
        each = pop.evaluate(x, y, per_sample=True)
        oracle.assert_bitwise_equal(pop.evaluate(x, y), oracle.fitness(oracle.negate(each)))

    def test_large_logits(self, isa):
        """Losses of thousands, and of exactly zero."""
        theta, x, y = setting(SMALL, SMALL_BATCH)
        net = fpes.LinearNetwork(SMALL, scaling=1.0)
        pop = fpes.Population(net, theta * np.float32(30), size=2, sigma=0.1, perturbation=fpes.FullRank())
        each = pop.evaluate(x, y, per_sample=True)
        losses = oracle.cross_entropy(pop.forward(x), y)
        assert losses.max() > 1000
        np.testing.assert_allclose(-each.astype(float), losses, rtol=1e-6, atol=1e-6)

    def test_label_types_and_layouts(self, isa):
        _, x, y = setting(SMALL, SMALL_BATCH)
        pop = population(SMALL, SMALL_BATCH, "full")
        want = pop.evaluate(x, y)
        for dtype in (np.uint8, np.int64):
            oracle.assert_bitwise_equal(pop.evaluate(x, y.astype(dtype)), want)
        oracle.assert_bitwise_equal(pop.evaluate(np.asfortranarray(x), np.repeat(y, 2)[::2]), want)

    def test_refusals(self):
        _, x, y = setting(SMALL, SMALL_BATCH)
        pop = population(SMALL, SMALL_BATCH, "full")
        with pytest.raises(ValueError, match="5"):
            pop.evaluate(x, np.where(y == 2, 5, y))
        with pytest.raises(ValueError, match="-1"):
            pop.evaluate(x, np.where(y == 2, -1, y))
        with pytest.raises(ValueError, match=r"."):
            pop.evaluate(x, y[:-1])
        with pytest.raises(TypeError, match="float32"):
            pop.evaluate(x, y.astype(np.float32))
        with pytest.raises(TypeError, match="float64"):
            pop.evaluate(x.astype(np.float64), y)
        with pytest.raises(ValueError, match="hinge"):
            pop.evaluate(x, y, loss="hinge")


class TestRefusals:
    @pytest.mark.parametrize("size", [0, -2, 3])
    def test_size(self, size):
        with pytest.raises(ValueError, match=str(size)):
            population(SMALL, SMALL_BATCH, "full", size=size)

    @pytest.mark.parametrize("sigma", [0.0, -1.0, np.nan, np.inf])
    def test_sigma(self, sigma):
        with pytest.raises(ValueError, match="sigma"):
            population(SMALL, SMALL_BATCH, "full", sigma=sigma)

    @pytest.mark.parametrize(
        ("name", "value"), [("seed", -1), ("seed", 2**64), ("generation", -1), ("generation", 2**32)]
    )
    def test_counters(self, name, value):
        with pytest.raises(ValueError, match=name):
            population(SMALL, SMALL_BATCH, "full", **{name: value})

    def test_perturbations(self):
        with pytest.raises(ValueError, match="rank"):
            fpes.LowRank(rank=0)
        for family in (fpes.FullRank, fpes.LowRank, fpes.NodePerturbation):
            with pytest.raises(ValueError, match="pink"):
                family(noise="pink")


@functools.lru_cache
def sparse_case(sizes, density):
    """(theta, x, what a full-rank population gives): 0 and -0 stand in x wherever it isn't dense."""
    rng = np.random.default_rng(sizes[0])
    theta = random_theta(rng, oracle.Network(sizes))
    x = (rng.uniform(0.1, 1, (9, sizes[0])) * (rng.random((9, sizes[0])) < density)).astype(np.float32)
    x[0, ::3] *= np.float32(-0.0)
    population = oracle.Population(oracle.Network(sizes), theta, 4, perturbation="full", sigma=SIGMA, seed=SEED)
    return theta, x, population.forward(x)


@pytest.mark.parametrize("sizes", [(63, 32, 5), (64, 128, 5), (65, 129, 5), (129, 161, 5), (257, 97, 5)], ids=str)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 0.9])
def test_inputs_of_any_density(isa, sizes, density):
    """Where most are zero only the others are multiplied: in runs of 64, 128 or 256, by 32, 64 or 128 columns."""
    theta, x, want = sparse_case(sizes, density)
    ours = fpes.Population(fpes.LinearNetwork(sizes), theta, size=4, sigma=SIGMA, seed=SEED)
    oracle.assert_bitwise_equal(ours.forward(x), want, f"{sizes}, {density}, {isa}")


@every_mode
@pytest.mark.parametrize("family", ["full", "node", "lowrank1"])
def test_sums_that_pass_through_minus_zero(isa, family, flush):
    """A product that underflows to -0, and then terms of +0: the sum is +0, and leaving the terms out would keep -0."""
    sizes, batch = (3, 40, 40), 5
    net = oracle.Network(sizes, flush=flush)
    theta = np.zeros(net.parameters, np.float32)
    layers = net.unpack(theta)
    layers[0][0][0, :2] = 0.75  # two active units, all others flushed
    for _, bias in layers:
        bias[...] = -0.0
    layers[1][0][...] = np.float32(2.0**-40)  # +0 terms ...
    layers[1][0][:2] = np.float32(-(2.0**-40))  # ... after terms that underflow to -0
    layers[1][0][2:, ::3] = np.float32(-(2.0**-40))  # in some columns all terms are -0, and so is the sum
    x = np.zeros((batch, sizes[0]), np.float32)
    x[:, 0] = 1.0
    nothing = 1e-60  # a sigma that is no noise at all, and that users may not give
    ours = fpes.Population(
        fpes.LinearNetwork(sizes, flush=flush),
        theta,
        size=14,
        sigma=1.0,
        perturbation=perturbation(family, "binomial"),
        seed=SEED,
    )
    ours._members.call = replace(ours._members.call, sigma=nothing)
    name, rank = FAMILIES[family]
    reference = oracle.Population(net, theta, 14, perturbation=name, rank=rank, sigma=nothing, seed=SEED)
    want = reference.forward(x)
    assert np.signbit(want).any()
    assert not np.signbit(want).all()
    oracle.assert_bitwise_equal(ours.forward(x), want, f"{family}, {flush}, {isa}")


_MEMORY = """
import re, sys
import numpy as np, fpes
net = fpes.LinearNetwork([784, 512, 512, 10])
theta, x, y = net.init(0), np.full((4, 784), 0.5, np.float32), np.arange(4)
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
idle = peak()
population = fpes.Population(net, theta, size=int(sys.argv[2]), sigma=0.02, perturbation=eval("fpes." + sys.argv[1]))
population.evaluate(x, y)
print(peak() - idle)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("perturbation", "size"), [("LowRank()", 65536), ("NodePerturbation()", 65536), ("FullRank()", 4096)]
)
def test_memory_does_not_grow_with_population_times_parameters(perturbation, size, tmp_path):
    """65,536 members of 669,706 parameters would take 163 GB."""
    script = tmp_path / "memory.py"
    script.write_text(_MEMORY)
    command = [sys.executable, "-W", "ignore::ResourceWarning", str(script), perturbation, str(size)]
    kilobytes = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0 < kilobytes < 300_000


def test_products_in_parts_have_the_same_bits():
    """Large matrices, which the portable kernels take in parts, so that an interrupt is heard in between."""
    sizes, size = (1500, 600, 300), 8
    net, rng = fpes.LinearNetwork(sizes), np.random.default_rng(0)
    theta = net.init(0)
    x = rng.random((96, sizes[0]), dtype=np.float32)
    y = rng.integers(0, sizes[-1], len(x))
    before, results = fpes.get_isa(), []
    for isa in (fpes.supported_isas()[0], fpes.supported_isas()[-1]):
        fpes.set_isa(isa)
        found = [net(theta, x)]
        for perturbation in (
            fpes.LowRank(2),
            fpes.NodePerturbation(),
            fpes.NodePerturbation(allocation=fpes.OneLayer(4)),
        ):
            pop = fpes.Population(net, theta, size=size, sigma=0.05, perturbation=perturbation)
            evaluation = pop.evaluate(x, y, per_sample=isinstance(perturbation, fpes.NodePerturbation))
            found += [np.asarray(evaluation), pop.gradient(evaluation)]
        results.append(found)
    fpes.set_isa(before)
    for portable, fast in zip(results[0], results[1], strict=True):
        oracle.assert_bitwise_equal(portable, fast)
