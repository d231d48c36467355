"""What all perturbations have in common: allocations, what strategies ask them, and families of a user's own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import oracle
import pytest

import fpes
from fpes import _config
from fpes._backends import PerturbationSpec
from fpes.members import PerturbedMembers
from fpes.perturbations.base import OfWeights

SIZES = (6, 9, 3)
FEW = fpes.OneLayer(units=(4, None), pairs=(2, 1))


def setting():
    rng = np.random.default_rng(0)
    net = fpes.LinearNetwork(SIZES)
    return net, net.init(1), rng.random((5, 6), np.float32), rng.integers(0, 3, 5).astype(np.int32)


class TestAllocations:
    def test_arrays_and_tuples_are_equal(self):
        assert fpes.OneLayer(np.array([4, 2]), [2, np.int64(1)]) == fpes.OneLayer((4, 2), (2, 1))
        assert hash(fpes.LowRank(allocation=fpes.OneLayer([4, None]))) == hash(
            fpes.LowRank(allocation=fpes.OneLayer((4, None)))
        )

    def test_all_layers_is_the_default(self):
        assert fpes.LowRank() == fpes.LowRank(allocation=fpes.AllLayers()) != fpes.LowRank(allocation=fpes.OneLayer())

    @pytest.mark.parametrize("family", [fpes.LowRank, fpes.NodePerturbation])
    def test_one_pair_a_layer_and_all_units_unless_told(self, family):
        net, theta, x, _ = setting()
        allocations = fpes.OneLayer(), fpes.OneLayer((None, None), (1, 1))
        populations = [
            fpes.Population(net, theta, size=4, sigma=0.1, perturbation=family(allocation=allocation))
            for allocation in allocations
        ]
        oracle.assert_bitwise_equal(*(population.forward(x) for population in populations))

    @pytest.mark.parametrize("allocation", [None, (4, None), fpes.OneLayer, "all"])
    @pytest.mark.parametrize("family", [fpes.LowRank, fpes.NodePerturbation])
    def test_others_are_refused(self, family, allocation):
        with pytest.raises(TypeError, match=r"allocation is .*, expected AllLayers\(\) or OneLayer\(units, pairs\)"):
            family(allocation=allocation)


@pytest.mark.parametrize("name", ["LowRank", "NodePerturbation"])
@pytest.mark.parametrize(
    ("units", "draws", "allocation"),
    [([4, None], [2, 1], FEW), (None, None, fpes.AllLayers()), (4, None, fpes.OneLayer(4))],
)
def test_checkpoints_with_units_and_draws_are_read(name, units, draws, allocation):
    older = {"type": name, "noise": "rademacher", "units": units, "draws": draws}
    assert _config.from_json(older) == getattr(fpes, name)(noise="rademacher", allocation=allocation)
    today = _config.to_json(_config.from_json(older))
    assert "draws" not in today
    assert _config.from_json(today) == _config.from_json(older)


def test_what_strategies_ask():
    perturbations = {
        "full": fpes.FullRank(),
        "low": fpes.LowRank(3),
        "few": fpes.LowRank(allocation=FEW),
        "node": fpes.NodePerturbation(),
        "unit": fpes.OneUnit(),
    }
    names = ("per_sample", "needs_batch", "weights_samples", "takes_tied_layers")
    found = {key: [name for name in names if getattr(p, name)] for key, p in perturbations.items()}
    assert found == {
        "full": ["takes_tied_layers"],
        "low": ["takes_tied_layers"],
        "few": [],
        "node": ["per_sample", "needs_batch"],
        "unit": ["needs_batch", "weights_samples"],
    }
    shapings = {key: p.default_shaping for key, p in perturbations.items()}
    assert [key for key, shaping in shapings.items() if shaping == "none"] == ["node", "unit"]


@pytest.mark.parametrize("perturbation", ["full", fpes.FullRank, 3])
def test_what_is_no_perturbation(perturbation):
    net, theta, _, _ = setting()
    for make in (fpes.Population, fpes.ES):
        with pytest.raises(TypeError, match="expected a FullRank, LowRank, NodePerturbation or OneUnit"):
            make(net, theta, size=4, sigma=0.1, perturbation=perturbation)


@fpes.register
@dataclass(frozen=True)
class Ranks(OfWeights):
    """Low rank, as a class of a user's own describes it."""

    rank: int = 2

    def around(self, centre):
        spec = PerturbationSpec("low_rank", "binomial", parameters={"rank": self.rank}, products=self.rank)
        return PerturbedMembers(centre, spec)


def test_a_class_of_your_own_in_a_strategy_and_in_checkpoints(tmp_path):
    net, theta, x, y = setting()
    strategies = [fpes.ES(net, theta, size=8, sigma=0.1, perturbation=p) for p in (Ranks(2), fpes.LowRank(2))]
    for es in strategies:
        es.tell(es.ask().evaluate(x, y))
    oracle.assert_bitwise_equal(*(es.theta for es in strategies))
    strategies[0].save(tmp_path / "own")
    assert fpes.ES.load(tmp_path / "own").perturbation == Ranks(2)


def test_a_family_that_is_not_there():
    class Other(OfWeights):
        def around(self, centre):
            return PerturbedMembers(centre, PerturbationSpec("other", "binomial"))

    net, theta, x, _ = setting()
    with pytest.raises(ValueError, match="there is no family of perturbations 'other'"):
        fpes.Population(net, theta, size=4, sigma=0.1, perturbation=Other()).forward(x)
