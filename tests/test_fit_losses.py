"""fit() by other losses than cross-entropy: it learns, measures what suits the task, and goes on to the same bits."""

from __future__ import annotations

import csv

import numpy as np
import oracle
import pytest

import fpes
from fpes import plots, records
from fpes.datasets import Dataset, ImportanceSampling
from fpes.records import Record

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (600, 3)).astype(np.float32)
# What no linear network gives: the absolute value of one input, the larger of two.
NUMBERS = np.stack([np.abs(X[:, 0]), np.maximum(X[:, 1], X[:, 2])], axis=1)
FLAGS = np.stack([X[:, 0] > 0, np.abs(X[:, 1]) > 0.5, X[:, 1] + X[:, 2] > 0.3], axis=1)
TASKS = {"squared_error": (NUMBERS, "standard"), "binary_cross_entropy": (FLAGS, None)}
PERTURBATIONS = {
    "full": fpes.FullRank(),
    "low rank": fpes.LowRank(2),
    "node": fpes.NodePerturbation(),
    "one unit": fpes.OneUnit(),
}
each_task = pytest.mark.parametrize("loss", TASKS)


def dataset(loss: str) -> Dataset:
    y, scale = TASKS[loss]
    return Dataset.from_arrays(X, y, scale_targets=scale)


def beginning(data: Dataset, perturbation=None, **settings) -> fpes.ES:
    net = fpes.LinearNetwork([data.features, 32, 16, data.outputs])
    perturbation = perturbation or fpes.FullRank()
    size = perturbation.members(net.sizes) if isinstance(perturbation, fpes.OneUnit) else 64
    options = {"size": size, "sigma": 0.05, "learning_rate": 0.02, "seed": 1, "perturbation": perturbation, **settings}
    return fpes.ES(net, net.init(0), **options)


def linear_r2(data: Dataset) -> float:
    """Of the best linear map."""
    with_one = [np.c_[x, np.ones(len(x))] for x in (data.x_train, data.x_test)]
    solution = np.linalg.lstsq(with_one[0], data.y_train, rcond=None)[0]
    return fpes.losses.coefficient_of_determination((with_one[1] @ solution).astype(np.float32), data.y_test)


def test_it_learns_numbers_that_no_linear_network_gives():
    data = dataset("squared_error")
    es = beginning(data, size=256)
    es.fit(data, steps=250, batch=128)  # squared error suits the data
    assert es.run.settings.loss == "squared_error"
    last = es.records[-1]
    assert last.test > linear_r2(data) + 0.2
    assert last.test == fpes.metric(es.net, es.solution, data.x_test, data.y_test, "squared_error")
    assert last.train == fpes.metric(es.net, es.solution, data.x_train, data.y_train, "squared_error")
    prediction = data.y_scaling.undo(es.net(es.solution, data.x_test))
    wanted = data.y_scaling.undo(data.y_test)
    assert fpes.losses.coefficient_of_determination(prediction, wanted) > 0.7


def test_it_learns_several_labels():
    data = dataset("binary_cross_entropy")
    es = beginning(data, size=256)
    es.fit(data, steps=250, batch=128, loss="binary_cross_entropy")
    last = es.records[-1]
    assert last.test > 0.85 > es.records[0].test
    outputs = es.net(es.solution, data.x_test)
    assert last.test == np.mean((outputs > 0) == (data.y_test > 0.5))


@each_task
@pytest.mark.parametrize("family", PERTURBATIONS)
def test_a_checkpoint_keeps_the_loss(tmp_path, loss, family):
    data, path = dataset(loss), tmp_path / "run.npz"
    whole, parts = (beginning(data, PERTURBATIONS[family]) for _ in range(2))
    whole.fit(data, steps=6, batch=32, loss=loss)
    with pytest.raises(KeyboardInterrupt):
        parts.fit(data, steps=6, batch=32, loss=loss, checkpoint=path, after_step=interrupted)
    resumed = fpes.ES.load(path)
    assert resumed.run.settings.loss == loss
    resumed.fit(data, checkpoint=path)
    oracle.assert_bitwise_equal(resumed.theta, whole.theta)
    assert (resumed.records[-1].loss, resumed.records[-1].test) == (whole.records[-1].loss, whole.records[-1].test)


def interrupted(es: fpes.ES) -> None:
    if es.generation == 3:
        raise KeyboardInterrupt


def test_by_hand_it_is_the_same():
    data = dataset("squared_error")
    fitted, told = beginning(data), beginning(data)
    minibatches = fpes.datasets.Minibatches(data, batch=32, seed=1)
    fitted.fit(data, steps=3, batch=32)
    for step in range(3):
        x, y = minibatches.at(step)
        told.tell(told.ask().evaluate(x, y, "squared_error"))
    oracle.assert_bitwise_equal(fitted.theta, told.theta)


def test_fitness_of_ones_own_gets_the_targets_as_they_are():
    data, seen = dataset("squared_error"), []

    def absolute_error(outputs, y):
        seen.append(y)
        return -np.abs(outputs - y).mean(axis=(1, 2))

    es = beginning(data)
    es.fit(data, steps=2, batch=32, fitness=absolute_error)
    oracle.assert_bitwise_equal(seen[0], fpes.datasets.Minibatches(data, batch=32, seed=1).at(0)[1])
    assert es.records[-1].test == fpes.metric(es.net, es.solution, data.x_test, data.y_test, "squared_error")


@pytest.mark.parametrize("loss", [None, "squared_error"])
def test_older_checkpoints_have_their_settings_one_by_one(loss):
    run = fpes.training.run.Run()
    run.settings = fpes.training.TrainingSettings(
        batch=7, groups=3, importance=fpes.datasets.ImportanceSampling(), loss=loss
    )
    written = run.as_json()
    settings = written.pop("settings")
    assert settings.pop("type") == "TrainingSettings"
    if loss is None:
        del settings["loss"]  # the oldest know none
    assert fpes.training.run.Run.from_json({**written, **settings}) == run
    with pytest.raises(ValueError, match="loss is 'mse', expected 'cross_entropy'"):
        fpes.training.run.Run.from_json({**written, **settings, "loss": "mse"})


# --- What is told of it ----------------------------------------------------------------------------------------------


def record(generation: int, train: float, test: float) -> Record:
    return Record(generation, 10 * generation, 0.1, 0.5, train, test, 0.01, 0.1, (0.5, 1.0), (1.0, 1.0))


@pytest.mark.parametrize("value", [0.5, -3e9, float("-inf"), float("nan")])
def test_any_metric_survives_a_checkpoint(value):
    again = Record.from_json(record(1, value, 0.5).as_json())
    np.testing.assert_equal(again.train, value)
    with pytest.raises(TypeError, match="test is None, expected a number"):
        Record.from_json({**record(1, 0.5, 0.5).as_json(), "test": None})


def test_a_table(tmp_path):
    data = dataset("squared_error")
    es = beginning(data)
    es.fit(data, steps=2, batch=32)
    records.write_csv(es.records, tmp_path / "log.csv")
    with (tmp_path / "log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["test"]) for row in rows] == [r.test for r in es.records]


@pytest.mark.parametrize(
    ("loss", "axis", "unit"),
    [
        ("cross_entropy", "accuracy, %", "cross-entropy, nats"),
        ("squared_error", "R²", "mean squared error"),
        ("binary_cross_entropy", "right labels, %", "binary cross-entropy, nats"),
    ],
)
def test_curves_say_what_they_show(tmp_path, monkeypatch, loss, axis, unit):
    matplotlib = pytest.importorskip("matplotlib.figure")
    drawn = []
    monkeypatch.setattr(matplotlib.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    plots.training_curves("title", {"seed 0": [record(0, -5e8, 0.1), record(1, 0.7, 0.6)]}, 0.5, tmp_path / "x", loss)
    labels = [axes.get_ylabel() for axes in drawn[0].axes]
    assert labels[:2] == [axis, unit]
    top = drawn[0].axes[0].get_ylim()[1]
    assert 0.7 < top < 1.1 if loss == "squared_error" else 50 < top < 101


# --- Refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": "mse"}, ValueError, "loss is 'mse', expected 'cross_entropy', 'squared_error' or 'binary_cross_ent"),
        ({"loss": ""}, ValueError, "loss is '', expected"),
        ({"loss": 1}, TypeError, "loss is 1, expected a string"),
        ({"loss": "cross_entropy"}, TypeError, "y_train of data, for loss 'cross_entropy', has dtype float32"),
        ({"loss": "binary_cross_entropy"}, ValueError, "y_train of data, for loss 'binary_cross_entropy', has numbers"),
        ({"importance": ImportanceSampling()}, ValueError, "importance sampling needs .* loss is 'squared_error'"),
    ],
)
def test_options_that_do_not_fit_the_data(options, error, message):
    data = dataset("squared_error")
    es = beginning(data)
    with pytest.raises(error, match=message):
        es.fit(data, steps=2, **options)
    assert es.generation == 0
    assert es.run.settings.loss is None


def test_a_network_that_does_not_fit_the_data():
    data = dataset("squared_error")
    net = fpes.LinearNetwork([3, 4])
    es = fpes.ES(net, net.init(0), size=4, sigma=0.1)
    with pytest.raises(ValueError, match="2 columns of targets, and the network has 3 inputs and 4 outputs"):
        es.fit(data, steps=1)


def test_labels_for_a_loss_of_numbers():
    data = Dataset.from_arrays(X, np.arange(600) % 2)
    net = fpes.LinearNetwork([3, 2])
    es = fpes.ES(net, net.init(0), size=4, sigma=0.1)
    with pytest.raises(TypeError, match="y_train of data, for loss 'squared_error', has dtype int32, expected float32"):
        es.fit(data, steps=1, loss="squared_error")
