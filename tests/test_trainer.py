"""The trainer's parts: settings, validation, what callbacks see, early stopping, what an interrupt leaves.

test_fit.py has the whole of fit().
"""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace

import numpy as np
import oracle
import pytest

import fpes
from fpes import EarlyStopping, StopTraining, _config
from fpes.datasets import Augmentation, Dataset, ImportanceSampling
from fpes.records import Record, write_csv
from fpes.training import TrainingSettings
from fpes.training.run import Run
from fpes.training.settings import Session

NET = fpes.LinearNetwork([2, 16, 2])
SETTINGS = {"size": 16, "sigma": 0.1, "learning_rate": 0.02}


def dataset(n: int = 90) -> Dataset:
    return fpes.datasets.two_spirals(n, turns=0.5, seed=0)


def make(**settings) -> fpes.ES:
    return fpes.ES(NET, NET.init(0), **{**SETTINGS, **settings})


class TestSettings:
    COMPLETE = TrainingSettings(64, 4, Augmentation(1, 2, shift=0.5), ImportanceSampling(0.5, 0.25), "cross_entropy")

    def test_they_are_their_own_json(self):
        for settings in (TrainingSettings(), self.COMPLETE):
            text = json.dumps(_config.to_json(settings))
            assert _config.from_json(json.loads(text)) == settings

    def test_what_is_given_replaces_what_was(self):
        assert TrainingSettings().changed(batch=64, groups=None) == TrainingSettings(batch=64)
        assert self.COMPLETE.changed(loss=None, batch=8) == replace(self.COMPLETE, batch=8)

    def test_numpy_numbers_become_pythons(self):
        settings = TrainingSettings(batch=np.int64(8), importance=ImportanceSampling(np.float32(0.5)))
        assert (type(settings.batch), type(settings.importance.exponent)) == (int, float)

    @pytest.mark.parametrize(
        ("settings", "error", "message"),
        [
            ({"batch": 0}, ValueError, "batch is 0, expected 1 to"),
            ({"batch": 2.5}, TypeError, r"batch is 2\.5"),
            ({"groups": 0}, ValueError, "groups is 0, expected 1 to"),
            ({"augmentation": "some"}, TypeError, r"augmentation is 'some', expected a fpes\.datasets\.Augmentation"),
            ({"importance": 1}, TypeError, r"importance is 1, expected a fpes\.datasets\.ImportanceSampling"),
            ({"loss": "mse"}, ValueError, "loss is 'mse', expected"),
        ],
    )
    def test_refusals(self, settings, error, message):
        with pytest.raises(error, match=message):
            TrainingSettings(**settings)

    @pytest.mark.parametrize(
        ("settings", "error", "message"),
        [
            ({"steps": 0}, ValueError, "steps is 0, expected 1 to"),
            ({"chunk": 3}, ValueError, "chunk is 3, expected an even number"),
            ({"max_seconds": 0.0}, ValueError, r"max_seconds is 0\.0"),
            ({"checkpoint_seconds": -1.0}, ValueError, r"checkpoint_seconds is -1\.0"),
            ({"after_step": [print, 3]}, TypeError, "after_step is 3, expected a function"),
        ],
    )
    def test_refused_sessions(self, settings, error, message):
        with pytest.raises(error, match=message):
            Session(**settings)


class TestValidation:
    def test_a_part_of_the_training_part(self):
        data = dataset(90)
        divided = data.with_validation(0.2, seed=3)
        assert [len(x) for x in (divided.x_train, divided.x_valid, divided.x_test)] == [72, 18, 90]
        together = np.concatenate([divided.x_train, divided.x_valid])
        assert {row.tobytes() for row in together} == {row.tobytes() for row in data.x_train}
        of = {row.tobytes(): label for row, label in zip(data.x_train, data.y_train, strict=True)}
        for x, y in ((divided.x_train, divided.y_train), (divided.x_valid, divided.y_valid)):
            assert [of[row.tobytes()] for row in x] == y.tolist()
        oracle.assert_bitwise_equal(divided.x_valid, data.with_validation(0.2, seed=3).x_valid)
        assert (divided.x_valid != data.with_validation(0.2, seed=4).x_valid).any()

    @pytest.mark.parametrize("fraction", [0.0, 1.0, 1e-9, -1, float("nan")])
    def test_parts_that_would_be_empty(self, fraction):
        with pytest.raises(ValueError, match="fraction is"):
            dataset().with_validation(fraction)

    def test_twice(self):
        with pytest.raises(ValueError, match="has a validation part of 9 samples already"):
            dataset().with_validation().with_validation()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"x_valid": None}, "x_valid and y_valid belong together"),
            ({"x_valid": np.zeros((9, 3), np.float32)}, "x_train has 2 features, but x_valid has 3"),
            ({"y_valid": np.zeros(8, np.int32)}, "x_valid has 9 samples, but y_valid has 8 labels"),
            ({"y_valid": np.full(9, 2, np.int32)}, r"y_valid must be in \[0, 2\), got 2 at \[0\]"),
        ],
    )
    def test_refusals(self, change, message):
        with pytest.raises(ValueError, match=message):
            replace(dataset().with_validation(), **change)

    def test_its_metric_is_in_the_records(self, tmp_path):
        data = dataset().with_validation(0.2)
        es = make()
        es.fit(data, steps=4, checkpoint=tmp_path / "run.npz")
        assert es.records[-1].valid == fpes.metric(NET, es.solution, data.x_valid, data.y_valid)
        assert fpes.ES.load(tmp_path / "run.npz").records == es.records
        write_csv(es.records, tmp_path / "log.csv")
        header, *_, last = (tmp_path / "log.csv").read_text().splitlines()
        assert float(dict(zip(header.split(","), last.split(","), strict=True))["valid"]) == es.records[-1].valid

    def test_it_decides_about_no_bit(self):
        data = dataset().with_validation(0.2)
        without = replace(data, x_valid=None, y_valid=None)
        first, second = make(), make()
        first.fit(data, steps=4)
        second.fit(without, steps=4)
        oracle.assert_bitwise_equal(first.theta, second.theta)
        assert second.records[-1].valid is None

    def test_records_of_early_checkpoints_have_none(self):
        record = Record(1, 10, 0.5, 0.7, 0.5, 0.5, 0.01, 0.1, (0.5, 1.0), (1.0, 1.0))
        written = record.as_json()
        assert written.pop("valid") is None
        assert Record.from_json(written) == record


class TestWhatCallbacksSee:
    @pytest.mark.parametrize("perturbation", [fpes.FullRank(), fpes.LowRank(2), fpes.OneUnit(draws=(2, 2))], ids=repr)
    def test_the_last_step(self, perturbation):
        size = perturbation.members(NET.sizes) if isinstance(perturbation, fpes.OneUnit) else 16
        es, seen = make(perturbation=perturbation, size=size, weight_decay=0.1, clip=0.01), []

        def look(es):
            last, before = es.last, seen[-1][0] if seen else NET.init(0)
            population = fpes.Population(
                NET, before, size=size, sigma=0.1, perturbation=perturbation, seed=0, generation=es.generation - 1
            )
            assert last.population.generation == es.generation - 1
            assert last.best == int(np.argmax(last.fitness))
            evaluation = last.evaluation
            assert evaluation.fitness.tolist() == last.fitness.tolist()
            needed = evaluation if isinstance(perturbation, fpes.OneUnit) else None
            oracle.assert_bitwise_equal(last.best_member(), last.population.member(last.best, needed))
            if needed is None:
                oracle.assert_bitwise_equal(last.best_member(), population.member(last.best))
            oracle.assert_bitwise_equal(last.before, before)
            moved = np.linalg.norm((es.theta - before).astype(np.float64))
            assert last.step_norm == pytest.approx(moved, rel=1e-6)
            assert last.gradient_norm == pytest.approx(
                last.factor * np.linalg.norm(last.gradient.astype(np.float64)), rel=1e-12
            )
            assert 0.0 < last.gradient_norm <= 0.01 * (1 + 1e-6)  # clipped
            seen.append((es.theta, last))

        es.fit(dataset(), steps=3, batch=30, after_step=look)
        assert len(seen) == 3

    def test_by_hand_too(self):
        es, data = make(shaping="none"), dataset()
        assert es.last is None
        fitness = np.arange(16, dtype=np.float32)
        es.ask()
        es.tell(fitness)
        assert (es.last.best, es.last.evaluation, es.last.all_equal) == (15, None, False)
        es.tell(es.ask().evaluate(data.x_train, data.y_train))
        assert es.last.evaluation is not None

    def test_node_perturbation_has_a_best_member_without_parameters(self):
        es = make(perturbation=fpes.NodePerturbation())
        es.fit(dataset(), steps=1, batch=30)
        assert es.last.fitness.shape == (16, 30)
        assert es.last.best == int(np.argmax(es.last.fitness.mean(axis=1)))
        with pytest.raises(ValueError, match="has no parameters of its own"):
            es.last.best_member()

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda es: pickle.loads(pickle.dumps(es))])
    def test_a_copy_goes_on_without_it(self, copied):
        es = make()
        es.fit(dataset(), steps=3, batch=30)
        other = copied(es)
        assert other.last is None
        for each in (es, other):
            each.fit(dataset(), steps=5)
        oracle.assert_bitwise_equal(other.theta, es.theta)

    def test_several_are_called_in_order(self):
        called = []
        make().fit(dataset(), steps=2, after_step=[lambda es: called.append("a"), lambda es: called.append("b")])
        assert called == ["a", "b", "a", "b"]


class TestStopping:
    def stop_at(self, generation):
        def stop(es):
            if es.generation == generation:
                raise StopTraining("enough")

        return stop

    def test_in_peace_and_resumed_to_the_same_bits(self, tmp_path):
        path, whole, part = tmp_path / "run.npz", make(), make()
        whole.fit(dataset(), steps=30, batch=30)
        records = part.fit(dataset(), steps=30, batch=30, checkpoint=path, after_step=self.stop_at(7))
        assert (part.generation, records[-1].generation) == (7, 7)
        rest = fpes.ES.load(path)
        assert (rest.generation, rest.records) == (7, records)
        rest.fit(dataset())
        oracle.assert_bitwise_equal(rest.theta, whole.theta)

    def test_a_plan_by_the_clock_stays(self):
        es = make()
        es.fit(dataset(), steps=10**6, max_seconds=60.0, after_step=self.stop_at(2))
        assert es.generation == 2 < es.steps

    def test_every_generation_is_one_of_the_run(self):
        es = make()
        es.fit(dataset(), steps=5, after_step=self.stop_at(5))
        assert [record.generation for record in es.records][-1] == 5


def records_of(*metrics, every=10):
    return [
        Record(n * every, 0, 0.0, 0.5, 0.5, 0.5, 0.01, 0.1, (1.0,), (1.0,), valid) for n, valid in enumerate(metrics)
    ]


class TestEarlyStopping:
    class Run:
        def __init__(self, records):
            self.records = records

    @pytest.mark.parametrize(
        ("metrics", "patience", "least", "stops"),
        [
            ((0.5, 0.6, 0.6, 0.6), 20, 0.0, True),
            ((0.5, 0.6, 0.6, 0.6), 21, 0.0, False),
            ((0.5, 0.6, 0.7, 0.8), 1, 0.0, False),
            ((0.5, 0.6, 0.55, 0.61), 20, 0.0, False),
            ((0.5, 0.6, 0.601, 0.602), 20, 0.01, True),
            ((0.5, 0.4, 0.3), 20, 0.0, True),
            ((0.5,), 1, 0.0, False),
        ],
    )
    def test_patience(self, metrics, patience, least, stops):
        stopping = EarlyStopping(patience, least)
        if stops:
            with pytest.raises(StopTraining, match="the validation metric is"):
                stopping(self.Run(records_of(*metrics)))
        else:
            stopping(self.Run(records_of(*metrics)))

    def test_in_fit(self):
        es = make(learning_rate=0.0)  # nothing gets better
        es.fit(dataset().with_validation(), steps=1000, batch=30, after_step=EarlyStopping(patience=100))
        assert 100 <= es.generation < 1000
        assert es.records[-1].generation - es.records[0].generation >= 100

    def test_without_validation(self):
        with pytest.raises(ValueError, match="EarlyStopping needs a validation part"):
            make().fit(dataset(), steps=5, after_step=EarlyStopping(1))

    @pytest.mark.parametrize("arguments", [(0,), (1, -0.1)])
    def test_refusals(self, arguments):
        with pytest.raises(ValueError, match=r"patience is 0|least is -0\.1"):
            EarlyStopping(*arguments)


class TestResiduals:
    def test_those_of_a_step_that_was_not_taken_are_not_used(self):
        run, old, new = Run(), np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)
        assert run.residuals_at(0) is None
        run.remember(1, old)
        assert run.residuals_at(0) is None
        assert run.residuals_at(1) is old
        for _ in range(3):  # interrupted, and tried again
            run.remember(2, new)
            assert run.residuals_at(1) is old
            assert run.residuals_at(2) is new
        run.remember(3, None)
        assert run.residuals_at(7) is new

    @pytest.mark.parametrize("where", ["accept", "remember"])
    def test_an_interrupt_between_residuals_and_theta(self, tmp_path, monkeypatch, where):
        """Whatever a checkpoint holds then, it leads to the same bits."""
        options = {"steps": 12, "batch": 30, "importance": ImportanceSampling()}
        whole, part, path = make(), make(), tmp_path / "run.npz"
        whole.fit(dataset(), **options)
        owner = fpes.ES if where == "accept" else Run
        usual, calls = getattr(owner, where), []

        def interrupted(self, *arguments):
            calls.append(None)
            if len(calls) == 9:
                raise KeyboardInterrupt
            return usual(self, *arguments)

        monkeypatch.setattr(owner, where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            part.fit(dataset(), **options, checkpoint=path)
        monkeypatch.undo()
        assert part.generation == 8
        rest = fpes.ES.load(path)
        for each in (rest, part):
            each.fit(dataset())
            oracle.assert_bitwise_equal(each.theta, whole.theta)
            oracle.assert_bitwise_equal(each.residuals, whole.residuals)
