"""Tied layers: the same weights and biases in several places, against the oracle, bit for bit."""

from __future__ import annotations

import functools

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_network import images, random_theta

import fpes
from fpes import baseline, controls, export, health
from fpes.cli.export import TARGETS
from fpes.study import bits

# (sizes, tied layers counted from 1, batch): hidden layers; all layers, which enter and leave the scaled domain; two
# groups that take turns; the first with the last of a group between; layers of more than a block of weights.
NETWORKS = {
    "hidden": ((13, 17, 17, 17, 5), [(2, 3)], 67),
    "all": ((9, 9, 9, 9), [(1, 2, 3)], 21),
    "in turns": ((7, 12, 7, 12, 7), [(1, 3), (2, 4)], 9),
    "first and last": ((11, 11, 6, 11, 11), [(4, 1)], 9),
    "wide": ((20, 161, 161, 161, 3), [(2, 3)], 5),
}
FAMILIES = {
    "full": fpes.FullRank,
    "lowrank1": lambda noise: fpes.LowRank(1, noise),
    "lowrank3": lambda noise: fpes.LowRank(3, noise),
}
KINDS = ("binomial", "rademacher", "gaussian")
SIGMA, SEED, GENERATION = 0.3, 0xFEDCBA9876543210, 5
each_network = pytest.mark.parametrize("name", NETWORKS)
each_family = pytest.mark.parametrize("family", FAMILIES)
each_kind = pytest.mark.parametrize("kind", KINDS)
every_mode = pytest.mark.parametrize("flush", oracle.FLUSH_MODES)


class Reference(oracle.Population):
    """With Gaussian noise too: its bits are compared with the mathematics elsewhere."""

    def draw(self, layer, role, pair, shape):
        if self.kind != "gaussian":
            return super().draw(layer, role, pair, shape)
        tensor = self.network.owners.index(self.network.owner(layer))
        names = {0: "weight", 1: "bias", 2: "factor_a", 3: "factor_b"}
        counters = {"layer": tensor, "role": names[role], "pair": pair, "generation": self.generation}
        return fpes.noise("gaussian", self.seed, count=int(np.prod(shape)), **counters).reshape(shape)

    @property
    def full_scale(self):
        return super().full_scale if self.kind != "gaussian" else oracle.to_float32(np.float64(self.sigma))

    @property
    def lowrank_scale(self):
        if self.kind != "gaussian":
            return super().lowrank_scale
        return oracle.to_float32(np.float64(self.sigma) / np.sqrt(np.float64(self.rank)))


def networks(sizes, tied, flush="boundary"):
    """(ours, the oracle's)."""
    groups = tuple(tuple(layer - 1 for layer in group) for group in tied)
    return fpes.LinearNetwork(sizes, flush=flush, tied=tied), oracle.Network(tuple(sizes), flush=flush, tied=groups)


@functools.lru_cache
def setting(name):
    """(theta, x, labels)."""
    sizes, tied, batch = NETWORKS[name]
    rng = np.random.default_rng(batch)
    theta = random_theta(rng, networks(sizes, tied)[1])
    return theta, images(rng, batch, sizes[0]), rng.integers(0, sizes[-1], batch).astype(np.int32)


def populations(name, family, kind="binomial", flush="boundary", size=6):
    """(ours, the oracle's)."""
    net, reference = networks(*NETWORKS[name][:2], flush)
    options = {"size": size, "sigma": SIGMA, "seed": SEED, "generation": GENERATION}
    rank = int(family[-1]) if family != "full" else 1
    theirs = Reference(
        reference, setting(name)[0], perturbation=family.rstrip("0123456789"), kind=kind, rank=rank, **options
    )
    return fpes.Population(net, setting(name)[0], perturbation=FAMILIES[family](kind), **options), theirs


@functools.lru_cache
def expected(name, family, kind, flush):
    return populations(name, family, kind, flush)[1].forward(setting(name)[1])


# --- The network -----------------------------------------------------------------------------------------------------


@each_network
@every_mode
def test_forward(isa, name, flush):
    sizes, tied, _ = NETWORKS[name]
    net, reference = networks(sizes, tied, flush)
    theta, x, _ = setting(name)
    assert net.parameters == reference.parameters
    oracle.assert_bitwise_equal(net(theta, x), oracle.forward(reference, theta, x), f"{name}, {flush}, {isa}")


@each_network
def test_it_is_the_network_with_the_same_weights_twice(name):
    sizes, tied, _ = NETWORKS[name]
    net, _ = networks(sizes, tied)
    theta, x, _ = setting(name)
    twice = np.concatenate([part.ravel() for layer in net.unpack(theta) for part in layer])
    oracle.assert_bitwise_equal(net(theta, x), fpes.LinearNetwork(sizes)(twice, x), name)


def test_parameters():
    net = fpes.LinearNetwork([20, 8, 8, 8, 3], tied=[(3, 2)])
    assert net.parameters == 20 * 8 + 8 + 8 * 8 + 8 + 8 * 3 + 3
    assert (net.layers, net.tied) == (4, ((2, 3),))
    assert (
        repr(net) == "LinearNetwork([20, 8, 8, 8, 3], scaling=4.253529586511731e+37, flush='boundary', tied=[(2, 3)])"
    )
    assert net.with_flush("never").tied == net.tied
    layers = net.unpack(np.arange(net.parameters, dtype=np.float32))
    assert layers[1][0] is layers[2][0]
    assert [int(bias[0]) for _, bias in layers] == [160, 232, 232, 264]


def test_initial_weights_are_drawn_once():
    net = fpes.LinearNetwork([20, 8, 8, 8, 3], tied=[(2, 3)])
    untied = fpes.LinearNetwork([20, 8, 8, 3])
    oracle.assert_bitwise_equal(net.init(5), untied.init(5))


def test_without_ties_nothing_is_another():
    assert fpes.LinearNetwork([4, 3, 2], tied=[]).as_json() == fpes.LinearNetwork([4, 3, 2]).as_json()
    assert "tied" not in repr(fpes.LinearNetwork([4, 3, 2]))


def test_the_network_up_to_a_layer():
    net = fpes.LinearNetwork([6, 6, 6, 4, 6, 4], tied=[(1, 2), (3, 5)])
    assert [net.up_to(layer).tied for layer in range(1, 6)] == [(), ((1, 2),), ((1, 2),), ((1, 2),), net.tied]
    theta = net.init(0)
    for layer in range(1, 6):
        part = net.up_to(layer)
        for (weight, bias), (w, b) in zip(part.unpack(theta[: part.parameters]), net.unpack(theta), strict=False):
            oracle.assert_bitwise_equal(weight, w)
            oracle.assert_bitwise_equal(bias, b)


class TestRefusals:
    @pytest.mark.parametrize(
        ("tied", "message"),
        [
            ([(1, 2)], r"tied\[0\] ties layer 2, whose weights are 8 x 8, to layer 1, whose weights are 20 x 8"),
            ([(2, 5)], r"tied\[0\]\[1\] is 5, expected 1 to 4"),
            ([(0, 2)], r"tied\[0\]\[0\] is 0"),
            ([(2,)], r"tied\[0\] is \(2,\), expected two layers or more"),
            ([(2, 3), (3, 2)], r"layer 2 twice"),
            ([(2, 2, 3)], r"layer 2 twice"),
        ],
    )
    def test_values(self, tied, message):
        with pytest.raises(ValueError, match=message):
            fpes.LinearNetwork([20, 8, 8, 8, 3], tied=tied)

    @pytest.mark.parametrize("tied", [2, [2, 3], ["23"], [(2, 3.0)]])
    def test_types(self, tied):
        with pytest.raises(TypeError, match="tied"):
            fpes.LinearNetwork([20, 8, 8, 8, 3], tied=tied)

    @pytest.mark.parametrize(
        "perturbation",
        [
            fpes.NodePerturbation(),
            fpes.NodePerturbation(allocation=fpes.OneLayer(2)),
            fpes.LowRank(allocation=fpes.OneLayer(2)),
            fpes.LowRank(allocation=fpes.OneLayer(pairs=(1, 1, 1, 1))),
            fpes.OneUnit(),
        ],
        ids=str,
    )
    def test_perturbations(self, perturbation):
        net = fpes.LinearNetwork([20, 8, 8, 8, 3], tied=[(2, 3)])
        message = r"net ties layers \(2, 3\): expected FullRank\(\) or LowRank\(rank\)"
        for make in (fpes.Population, fpes.ES):
            with pytest.raises(ValueError, match=message):
                make(net, net.init(0), size=54, sigma=0.1, perturbation=perturbation)

    def test_an_evaluation_of_another_network(self):
        tied, untied = fpes.LinearNetwork([4, 4, 4], tied=[(1, 2)]), fpes.LinearNetwork([4, 4, 4])
        evaluations = [
            fpes.Population(net, net.init(0), size=2, sigma=0.1).evaluate(np.ones((1, 4), np.float32), [0])
            for net in (tied, untied)
        ]
        other = fpes.Population(tied, tied.init(0), size=2, sigma=0.1)
        other.gradient(evaluations[0])
        with pytest.raises(ValueError, match="tied"):
            other.gradient(evaluations[1])


# --- Populations -----------------------------------------------------------------------------------------------------


@each_network
@each_family
@each_kind
@every_mode
def test_outputs_of_members(isa, name, family, kind, flush):
    ours, _ = populations(name, family, kind, flush)
    want = expected(name, family, kind, flush)
    oracle.assert_bitwise_equal(ours.forward(setting(name)[1]), want, f"{name}, {family}, {kind}, {flush}, {isa}")


@each_network
@each_family
def test_fitness(isa, threads, name, family):
    ours, _ = populations(name, family)
    _, x, y = setting(name)
    each = ours.evaluate(x, y, per_sample=True).values
    losses = oracle.cross_entropy(expected(name, family, "binomial", "boundary"), y)
    np.testing.assert_allclose(-each.astype(float), losses, rtol=1e-6, atol=1e-6)
    oracle.assert_bitwise_equal(ours.evaluate(x, y).values, oracle.fitness(oracle.negate(each)), f"{name}, {family}")


@each_network
@each_kind
@every_mode
def test_members_of_full_rank(isa, name, kind, flush):
    """Their parameters give the bits of the population."""
    ours, theirs = populations(name, "full", kind, flush)
    outputs = ours.forward(setting(name)[1])
    for index in (0, 3, 5):
        theta = ours.member(index)
        oracle.assert_bitwise_equal(theta, theirs.perturbed_theta(index), f"member {index}")
        oracle.assert_bitwise_equal(ours.net(theta, setting(name)[1]), outputs[index], f"member {index}")


@each_network
@pytest.mark.parametrize("family", ["lowrank1", "lowrank3"])
@each_kind
def test_members_of_low_rank(isa, name, family, kind):
    ours, theirs = populations(name, family, kind)
    network = theirs.network
    for index in (0, 3):
        theta, biases = ours.member(index), theirs._add_full_noise(index, weights=False)
        scale = -theirs.lowrank_scale if index % 2 else theirs.lowrank_scale
        base = network.unpack_own(theirs.theta)
        for layer, (weight, bias) in network.unpack_own(theta).items():
            a, b = (factor.astype(np.float32) for factor in theirs.draw_factors(layer, index // 2))
            want = oracle.gemm(oracle.mul(a.T, scale, False), b, "boundary", start=base[layer][0])
            oracle.assert_bitwise_equal(weight, want, f"weights of layer {layer} of member {index}")
            oracle.assert_bitwise_equal(bias, network.unpack_own(biases)[layer][1], f"bias {layer} of member {index}")


@each_network
@each_family
@pytest.mark.parametrize("kind", ["binomial", "rademacher"])
def test_gradient(isa, threads, name, family, kind):
    """What tied layers share has one estimate, and not the sum of one for each layer."""
    for size in (2, 34):
        ours, theirs = populations(name, family, kind, size=size)
        floats = np.random.default_rng(size).standard_normal(size).astype(np.float32)
        large = np.random.default_rng(size).integers(-(2**33), 2**33, size)
        for weights in (oracle.centred_ranks(floats).astype(np.int32), large, floats):
            want = theirs.gradient(weights)
            oracle.assert_bitwise_equal(ours.gradient(weights), want, f"{name}, {family}, {kind}, {weights.dtype}")


@each_family
def test_gradient_of_gaussian_noise(isa, family):
    """Pairs in order, in float32."""
    ours, theirs = populations("in turns", family, "gaussian", size=6)
    weights = np.random.default_rng(0).standard_normal(6).astype(np.float32)
    scale = 1.0 / (6 * SIGMA)
    scales = {"weight": scale if family == "full" else 1.0 / (np.sqrt(float(theirs.rank)) * 6 * SIGMA), "bias": scale}
    sums = theirs._float_sums(oracle.add(weights[0::2], oracle.negate(weights[1::2]), ftz=False))
    got = theirs.network.unpack_own(ours.gradient(weights))
    for layer, (weight, bias) in theirs.network.unpack_own(sums).items():
        for name, sum_of, mine in (("weight", weight, got[layer][0]), ("bias", bias, got[layer][1])):
            oracle.assert_bitwise_equal(mine, oracle.to_float32(oracle.widen(sum_of) * scales[name]), f"{name} {layer}")


@pytest.mark.parametrize("name", ["hidden", "in turns"])
@each_family
def test_ranges_and_groups(isa, name, family):
    """Minibatches of groups, in ranges of pairs that begin and end inside a group."""
    ours, theirs = populations(name, family, size=18)
    _, x, y = setting(name)
    x, y = x[:9].reshape(3, 3, -1), y[:9].reshape(3, 3)
    want = np.stack([theirs.forward_member(member, x[member // 6]) for member in range(18)])
    whole = ours.evaluate(x, y)
    oracle.assert_bitwise_equal(ours.forward(x, chunk=4), want, f"{name}, {family}")
    weights = fpes.centred_ranks(whole.values)
    parts = []
    for pairs in ((0, 2), (2, 7), (7, 9)):
        members = slice(2 * pairs[0], 2 * pairs[1])
        oracle.assert_bitwise_equal(ours.forward(x, pairs=pairs), want[members], f"{family}, {pairs}")
        oracle.assert_bitwise_equal(
            ours.evaluate(x, y, pairs=pairs).values, whole.values[members], f"{family}, {pairs}"
        )
        parts.append(ours.partial_gradient(weights, pairs=pairs))
    oracle.assert_bitwise_equal(ours.joined_gradient(parts), theirs.gradient(weights), family)


@st.composite
def programs(draw):
    """(sizes, tied): layers of two widths, those of equal shape tied at random."""
    narrow, wide = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    sizes = draw(st.lists(st.sampled_from([narrow, wide]), min_size=2, max_size=7))
    groups: dict[tuple[int, ...], list[int]] = {}
    for layer in range(1, len(sizes)):
        group = draw(st.integers(0, 2))
        if group:
            groups.setdefault((sizes[layer - 1], sizes[layer], group), []).append(layer)
    return sizes, [tuple(group) for group in groups.values() if len(group) > 1]


@given(
    program=programs(),
    flush=st.sampled_from(oracle.FLUSH_MODES),
    family=st.sampled_from(["full", "lowrank"]),
    kind=st.sampled_from(KINDS),
    rank=st.integers(1, 3),
    batch=st.integers(1, 9),
    seed=st.integers(0, 2**20),
)
@settings(deadline=None, max_examples=60)
def test_any_program(program, flush, family, kind, rank, batch, seed):
    net, reference = networks(*program, flush)
    rng = np.random.default_rng(seed)
    theta, x = random_theta(rng, reference), images(rng, batch, net.features)
    options = {"size": 4, "sigma": SIGMA, "seed": seed, "generation": 1}
    theirs = Reference(
        reference, theta, perturbation=family, kind=kind, rank=rank if family == "lowrank" else 1, **options
    )
    perturbation = fpes.FullRank(kind) if family == "full" else fpes.LowRank(rank, kind)
    ours = fpes.Population(net, theta, perturbation=perturbation, **options)
    oracle.assert_bitwise_equal(net(theta, x), oracle.forward(reference, theta, x), f"{net}")
    oracle.assert_bitwise_equal(ours.forward(x), theirs.forward(x), f"{ours}")
    if family == "full":
        oracle.assert_bitwise_equal(ours.member(3), theirs.perturbed_theta(3), f"{ours}")
    if kind != "gaussian":
        weights = rng.integers(-9, 10, 4).astype(np.int32)
        oracle.assert_bitwise_equal(ours.gradient(weights), theirs.gradient(weights), f"{ours}")


# --- What walks through layers ---------------------------------------------------------------------------------------


def small():
    """(net, theta, x), with biases on both sides of the threshold."""
    net = fpes.LinearNetwork([20, 16, 16, 16, 16, 7], tied=[(2, 4)])
    theta = net.init(0)
    rng = np.random.default_rng(0)
    for _, bias in net.unpack(theta):
        bias[...] = rng.uniform(-1, 1, bias.shape)
    return net, theta, images(rng, 200, 20)


def test_controls():
    net, theta, x = small()
    matrix, bias = controls.collapse(net, theta)
    np.testing.assert_allclose(x @ matrix + bias, net.with_flush("never")(theta, x), atol=1e-4)
    oracle.assert_bitwise_equal(controls.forward_with(net, theta, x, off=()), net(theta, x))
    h = x.astype(np.float64)
    for weight, layer_bias in net.unpack(theta):
        h = h @ weight + layer_bias
    np.testing.assert_allclose(controls._layer_by_layer(net, theta, x), h, rtol=1e-9, atol=1e-9)


def test_activations():
    net, theta, x = small()
    outputs = bits.activations(net, theta, x)
    oracle.assert_bitwise_equal(outputs[-1], net(theta, x))
    assert health.active_fractions(net, theta, x) == [float((output != 0.0).mean()) for output in outputs]
    norms = health.weight_norms(net, theta)
    assert norms[1] == norms[3] != norms[2]


def test_the_baseline_adds_up_what_layers_contribute():
    """By finite differences, in float64."""
    net, theta, x = small()
    labels = np.arange(20) % 7
    gradient = baseline._gradient(net, theta, x[:20], labels)

    def loss(parameters):
        h = x[:20].astype(np.float64)
        for weight, bias in oracle.Network(net.sizes, tied=((1, 3),)).unpack(parameters):
            h = h @ weight + bias
        return float(np.mean(np.log(np.exp(h).sum(axis=1)) - h[np.arange(20), labels]))

    for i in (0, 20 * 16 + 16, 20 * 16 + 16 + 37, 20 * 16 + 16 + 16 * 16 + 3, net.parameters - 1):
        step = np.zeros(net.parameters)
        step[i] = 1e-6
        numeric = (loss(theta + step) - loss(theta - step)) / 2e-6
        assert gradient[i] == pytest.approx(numeric, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("flush", ["boundary", "never"])
def test_exports(target, flush, tmp_path):
    packages = {"onnx": ("onnx", "onnxruntime"), "torch": ("torch",), "npz": ()}[target]
    for package in packages:
        pytest.importorskip(package, reason=f"NOT TESTED: {package} is not installed")
    net, theta, x = small()
    net = net.with_flush(flush)
    path = tmp_path / f"network{TARGETS[target].suffix}"
    TARGETS[target].write(export.formula_of(net, theta), path)
    np.testing.assert_allclose(TARGETS[target].run(path, x), net(theta, x), atol=1e-4)
    if target == "onnx":
        import onnx

        names = [constant.name for constant in onnx.load(path).graph.initializer]
        assert "weight_2" in names
        assert "weight_4" not in names
    if target == "torch":
        module = export.to_torch(export.formula_of(net, theta))
        assert sum(p.numel() for p in module.parameters()) == net.parameters


def test_the_formula():
    """A bias of the first layer isn't shrunk, and the same bias elsewhere is."""
    net = fpes.LinearNetwork([9, 9, 9], tied=[(1, 2)])
    theta = random_theta(np.random.default_rng(0), oracle.Network((9, 9)))
    x = images(np.random.default_rng(1), 50, 9)
    formula = export.formula_of(net, theta)
    assert formula.weights[0] is formula.weights[1]
    assert (formula.biases[1] == 0).sum() > (formula.biases[0] == 0).sum()
    np.testing.assert_allclose(formula(x), net(theta, x), atol=1e-5)


# --- Training --------------------------------------------------------------------------------------------------------


def trained(net, steps, theta=None, **options):
    es = fpes.ES(
        net,
        net.init(1) if theta is None else theta,
        size=16,
        sigma=0.1,
        learning_rate=0.02,
        weight_decay=0.5,
        averaging=0.9,
        seed=4,
        **options,
    )
    es.fit(fpes.datasets.load("digits"), steps=steps, batch=64)
    return es


@pytest.mark.parametrize("perturbation", [fpes.FullRank(), fpes.LowRank(2)], ids=str)
def test_a_run_goes_on_from_its_checkpoint(perturbation, tmp_path):
    net = fpes.LinearNetwork([fpes.datasets.load("digits").features, 12, 12, 12, 10], tied=[(2, 3)])
    whole = trained(net, 4, perturbation=perturbation)
    half = trained(net, 2, perturbation=perturbation)
    half.save(tmp_path / "half.npz")
    again = fpes.ES.load(tmp_path / "half.npz")
    assert again.net.tied == net.tied
    assert again.theta.shape == (net.parameters,)
    again.fit(fpes.datasets.load("digits"), steps=4, batch=64)
    for name in ("theta", "solution"):
        oracle.assert_bitwise_equal(getattr(again, name), getattr(whole, name), name)


def test_weight_decay_counts_once():
    """One step of nothing but decay: every weight shrinks by the same factor."""
    net = fpes.LinearNetwork([4, 4, 4], tied=[(1, 2)])
    es = fpes.ES(net, net.init(0), size=2, sigma=0.1, learning_rate=0.5, weight_decay=0.5)
    before = es.theta[:16].copy()
    with pytest.warns(fpes.TrainingWarning, match="the same fitness"):
        es.tell(np.zeros(2, np.float32))
    np.testing.assert_allclose(es.theta[:16], before * 0.75, rtol=1e-6)
