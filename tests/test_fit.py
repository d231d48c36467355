"""fit(): trains, measures, saves; and whatever ends it, whoever resumes it comes to the same bits."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import oracle
import pytest
import training_run
from training_run import SETTINGS, STEPS, beginning, dataset

import fpes
from fpes.datasets import Dataset
from fpes.losses import accuracy
from fpes.training import curves


@pytest.fixture(scope="module")
def undisturbed() -> fpes.ES:
    es = beginning()
    es.fit(dataset(), **SETTINGS)
    assert es.generation == STEPS
    return es


class Runner:
    """The run in a process of its own."""

    def __init__(self, path: Path, *which: str) -> None:
        command = [sys.executable, "-W", "error", training_run.__file__, str(path), *which]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "running\n"

    def wait_for(self, path: Path, generation: int) -> None:
        """Until the checkpoint has come so far."""
        while not path.exists() or fpes.ES.load(path).generation < generation:
            assert self.process.poll() is None, self.process.stderr.read()
            time.sleep(0.001)

    def end(self, number: signal.Signals) -> int:
        """Send a signal, wait, and tell the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        with self.process as process:
            _, self.errors = process.communicate()
            return process.returncode


def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path, undisturbed):
    """kill -9, which nothing can be done about, whenever: between checkpoints and while one is written."""
    path, rng = tmp_path / "run.npz", random.Random(0)
    generation = 0
    for _ in range(4):
        runner = Runner(path)
        runner.wait_for(path, generation + rng.randint(1, 20))
        time.sleep(rng.uniform(0.0, 0.01))
        assert runner.end(signal.SIGKILL) == -signal.SIGKILL
        before, generation = generation, fpes.ES.load(path).generation
        assert before < generation < STEPS
    last = Runner(path)
    assert last.wait() == 0, last.errors
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]
    es = fpes.ES.load(path)
    assert es.generation == STEPS
    oracle.assert_bitwise_equal(es.theta, undisturbed.theta)
    oracle.assert_bitwise_equal(es.solution, undisturbed.solution)
    oracle.assert_bitwise_equal(es.residuals, undisturbed.residuals)


def test_mnist_es_killed_at_random_moments_ends_with_the_same_bits(tmp_path):
    """One unit at a time, on minibatches that importance sampling chooses, by what the checkpoint remembers of it."""
    steps, path, rng = training_run.MNIST_ES_STEPS, tmp_path / "run.npz", random.Random(1)
    whole = training_run.mnist_es()
    whole.fit(training_run.images(), **training_run.MNIST_ES_SETTINGS)
    generation = 0
    for _ in range(2):
        runner = Runner(path, "mnist-es")
        runner.wait_for(path, generation + rng.randint(1, 5))
        assert runner.end(signal.SIGKILL) == -signal.SIGKILL
        killed = fpes.ES.load(path)
        assert generation < killed.generation < steps
        generation = killed.generation
        assert (killed.residuals < 1).any()  # of samples that were seen
    last = Runner(path, "mnist-es")
    assert last.wait() == 0, last.errors
    es = fpes.ES.load(path)
    assert es.generation == steps
    oracle.assert_bitwise_equal(es.theta, whole.theta)
    oracle.assert_bitwise_equal(es.residuals, whole.residuals)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_save_first(tmp_path, undisturbed, number, status):
    path = tmp_path / "run.npz"
    runner = Runner(path)
    runner.wait_for(path, 5)
    assert runner.end(number) == status, runner.errors
    stopped = fpes.ES.load(path)
    assert 5 <= stopped.generation < STEPS
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]
    stopped.fit(dataset())  # batch and all that are in the checkpoint
    oracle.assert_bitwise_equal(stopped.theta, undisturbed.theta)


@pytest.mark.parametrize("generation", [0, 1, 57, STEPS - 1, STEPS])
def test_stopped_at_any_generation(tmp_path, undisturbed, generation):
    es, path = beginning(), tmp_path / "run.npz"

    def stop(es):
        if es.generation == generation:
            raise KeyboardInterrupt

    try:
        es.fit(dataset(), **SETTINGS, checkpoint=path, after_step=stop)
    except KeyboardInterrupt:
        assert generation > 0
    resumed = fpes.ES.load(path)
    with pytest.warns(fpes.TrainingWarning, match="reached") if generation in (0, STEPS) else nullcontext():
        resumed.fit(dataset(), checkpoint=path)
    oracle.assert_bitwise_equal(resumed.theta, undisturbed.theta)
    assert resumed.evaluations == undisturbed.evaluations == STEPS * 16 * 64
    assert fpes.ES.load(path).generation == STEPS


def test_a_full_disk_stops_nothing_and_loses_nothing(tmp_path, undisturbed, monkeypatch):
    es, path = beginning(), tmp_path / "run.npz"
    write, failures = fpes.checkpoint.write, []

    def full_for_a_while(*arguments):
        if 20 <= es.generation < 40:
            failures.append(es.generation)
            raise OSError(f"can't write {path}: No space left on device")
        write(*arguments)

    monkeypatch.setattr(fpes.checkpoint, "write", full_for_a_while)
    with pytest.warns(fpes.TrainingWarning, match="No space left on device.*training goes on") as told:
        es.fit(dataset(), **SETTINGS, checkpoint=path, checkpoint_seconds=0.0)
    assert failures == list(range(20, 40))
    assert len(told) == 1
    oracle.assert_bitwise_equal(fpes.ES.load(path).theta, undisturbed.theta)


def test_a_disk_that_is_full_at_the_end_is_an_error(tmp_path, monkeypatch):
    es, path = beginning(), tmp_path / "run.npz"
    es.fit(dataset(), **SETTINGS, steps=STEPS, checkpoint=path, after_step=lambda es: None)
    theta = es.theta

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"can't write .*run\.npz: No space left"):  # at the start: nothing was done
        es.fit(dataset(), steps=STEPS + 10, checkpoint=path)
    assert es.generation == STEPS
    oracle.assert_bitwise_equal(fpes.ES.load(path).theta, theta)
    monkeypatch.undo()

    def fill(es):
        if es.generation == STEPS + 3:
            monkeypatch.setattr(np, "savez", full)

    with pytest.raises(fpes.NotSavedError, match=r"run\.npz: No space left on device; training is done"):
        es.fit(dataset(), steps=STEPS + 5, checkpoint=path, after_step=fill)
    assert es.generation == STEPS + 5  # all of it is here
    monkeypatch.undo()
    es.save(path)
    assert fpes.ES.load(path).generation == STEPS + 5


def interrupted_at(generation, end=KeyboardInterrupt):
    """A hook that ends a run."""

    def stop(es):
        if es.generation == generation:
            raise end

    return stop


class StopError(Exception):
    """What a user's hook may raise."""


class TestWhateverEndsIt:
    @pytest.mark.parametrize("end", [StopError, OSError, SystemExit, MemoryError])
    def test_an_exception_of_a_hook_leaves_a_checkpoint(self, tmp_path, undisturbed, end):
        es, path = beginning(), tmp_path / "run.npz"
        with pytest.raises(end):
            es.fit(dataset(), **SETTINGS, checkpoint=path, after_step=interrupted_at(50, end))
        assert fpes.ES.load(path).generation == 50
        es.fit(dataset(), checkpoint=path)
        oracle.assert_bitwise_equal(es.theta, undisturbed.theta)

    @pytest.mark.parametrize("end", [KeyboardInterrupt, StopError])
    @pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), ValueError("of another layer")])
    def test_it_stays_what_it_is_though_saving_fails(self, tmp_path, monkeypatch, end, failure):
        es, path = beginning(), tmp_path / "run.npz"

        def stop(es):
            if es.generation == 5:
                monkeypatch.setattr(np, "savez", full)
                raise end

        def full(*_, **__):
            raise failure

        with (
            pytest.warns(fpes.TrainingWarning, match="the last checkpoint was not saved: ") as told,
            pytest.raises(end),
        ):
            es.fit(dataset(), **SETTINGS, checkpoint=path, after_step=stop)
        assert (str(path) in str(told[0].message)) == isinstance(failure, OSError)
        assert told[0].filename == __file__
        assert fpes.ES.load(path).generation == 0
        assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]

    def test_a_last_checkpoint_that_warns_is_no_other_end_where_warnings_are_errors(self, tmp_path, monkeypatch):
        es, path = beginning(), tmp_path / "run.npz"

        def stop(es):
            monkeypatch.setattr(np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            es.fit(dataset(), **SETTINGS, checkpoint=path, after_step=stop)


class TestOneFileOneRun:
    def test_the_same_script_again_is_refused_before_any_work(self, tmp_path):
        path = tmp_path / "run.npz"
        with pytest.raises(KeyboardInterrupt):
            beginning().fit(dataset(), **SETTINGS, checkpoint=path, after_step=interrupted_at(20))
        again, kept = beginning(), path.read_bytes()
        with pytest.raises(
            FileExistsError, match=r"run\.npz is not replaced, because it holds generation 20 of another run"
        ):
            again.fit(dataset(), **SETTINGS, checkpoint=path, after_step=lambda _: pytest.fail("worked"))
        assert path.read_bytes() == kept
        assert (again.generation, again.records) == (0, [])

    def test_an_older_state_of_the_same_run_is_refused_too(self, tmp_path):
        path, es = tmp_path / "run.npz", beginning()
        with pytest.raises(KeyboardInterrupt):
            es.fit(dataset(), **SETTINGS, checkpoint=path, after_step=interrupted_at(10))
        older = fpes.ES.load(path)
        es.fit(dataset(), steps=30, checkpoint=path)
        with pytest.raises(FileExistsError, match=r"generation 10, because it holds generation 30 of the same run"):
            older.fit(dataset(), checkpoint=path)

    def test_two_at_once(self, tmp_path):
        path, first, second = tmp_path / "run.npz", beginning(), beginning()

        def intrude(es):
            if es.generation == 3:
                with pytest.raises(BlockingIOError, match=r"run\.npz is in use by process"):
                    second.fit(dataset(), **SETTINGS, checkpoint=path)

        first.fit(dataset(), **SETTINGS, steps=10, checkpoint=path, after_step=intrude)
        assert (second.generation, fpes.ES.load(path).run.id) == (0, first.run.id)

    def test_a_hook_may_save_as_well(self, tmp_path):
        path, es = tmp_path / "run.npz", beginning()

        def save(es):
            es.save(path)
            es.save(tmp_path / "best.npz")

        es.fit(dataset(), **SETTINGS, steps=5, checkpoint=path, after_step=save)
        assert [fpes.ES.load(tmp_path / name).generation for name in ("run.npz", "best.npz")] == [5, 5]

    def test_what_another_program_puts_there_meanwhile_is_kept(self, tmp_path, undisturbed):
        path, es, other = tmp_path / "run.npz", beginning(), beginning()
        other.fit(dataset(), **SETTINGS, steps=7, checkpoint=tmp_path / "other.npz")

        def copy(es):
            if es.generation == 5:
                path.write_bytes((tmp_path / "other.npz").read_bytes())

        with (
            pytest.warns(fpes.TrainingWarning, match="holds generation 7 of another run.*training goes on"),
            pytest.raises(fpes.NotSavedError, match="generation 7 of another run"),
        ):
            es.fit(dataset(), **SETTINGS, checkpoint=path, checkpoint_seconds=0.0, after_step=copy)
        assert fpes.ES.load(path).run.id == other.run.id
        oracle.assert_bitwise_equal(es.theta, undisturbed.theta)


class TestThePlannedEnd:
    def test_nothing_to_do_is_said(self):
        es = beginning()
        es.fit(dataset(), **SETTINGS, steps=5)
        theta = es.theta
        for steps in (None, 5):
            with pytest.warns(fpes.TrainingWarning, match="generation 5 of 5: the planned end is reached"):
                es.fit(dataset(), steps=steps)
        assert es.theta is theta
        with pytest.raises(ValueError, match="steps is 4, and 5 generations are done"):
            es.fit(dataset(), steps=4)

    def test_more_steps_go_on_and_schedules_follow(self):
        es = beginning()
        es.fit(dataset(), **SETTINGS, steps=5)
        es.fit(dataset(), steps=10)
        assert (es.generation, es.run.plan) == (10, [(0, 5), (5, 10)])
        assert es.records[-1].learning_rate == es.learning_rate.at(9, 10)

    def test_a_limit_that_passes_before_the_first_generation_leaves_one(self):
        es = beginning()
        es.fit(dataset(), **SETTINGS, max_seconds=1e-9)
        assert (es.generation, es.steps) == (1, 1)

    def test_time_instead(self):
        """A run of one's own loop has no plan until fit() makes one."""
        net = fpes.LinearNetwork([16, 40, 2])
        es = fpes.ES(net, net.init(0), size=16, sigma=0.1)
        es.tell(es.ask().evaluate(dataset().x_train[:50], dataset().y_train[:50]))
        es.fit(dataset(), batch=64, max_seconds=0.3)
        assert es.generation > 1


class TestRecords:
    def test_they_tell_what_is_measured(self, undisturbed):
        data, records = dataset(), undisturbed.records
        assert [record.generation for record in records[:1]] == [0]
        last = records[-1]
        assert last.generation == STEPS
        net, theta = undisturbed.net, undisturbed.solution
        assert last.train == accuracy(net(theta, data.x_train), data.y_train) > records[0].train
        assert last.test == accuracy(net(theta, data.x_test), data.y_test)
        assert last.loss == -undisturbed.fitness
        hidden = data.x_train @ net.unpack(theta)[0][0] + net.unpack(theta)[0][1]
        assert last.active[0] == pytest.approx(np.mean(np.abs(hidden) >= 0.5), abs=0.001)
        for layer, (weight, _) in enumerate(net.unpack(theta)):
            scale = np.sqrt(2 / weight.shape[0])
            assert last.norms[layer] == pytest.approx(np.sqrt(np.mean(weight.astype(np.float64) ** 2)) / scale)
        assert last.learning_rate == undisturbed.value("learning_rate", STEPS - 1)
        assert [record.evaluations for record in records] == [record.generation * 16 * 64 for record in records]

    def test_recording_changes_no_bits(self, undisturbed, monkeypatch):
        monkeypatch.setattr(curves, "_RECORDS", 1)
        es = beginning()
        es.fit(dataset(), **SETTINGS)
        assert len(es.records) == 2
        oracle.assert_bitwise_equal(es.theta, undisturbed.theta)


class TestTime:
    @pytest.mark.parametrize("seconds", [0.5, 1.5])
    def test_a_plan_that_follows_the_clock_ends_in_time_with_its_schedule(self, seconds):
        es = beginning()
        begin = time.monotonic()
        es.fit(dataset(), **SETTINGS, steps=10**9, max_seconds=seconds)
        elapsed = time.monotonic() - begin
        assert elapsed < 1.5 * seconds + 3.0  # a busy machine may be away for long
        assert 1 <= es.generation <= es.steps < 10**9
        assert es.run.plan[-1][1] == es.steps
        if es.generation == es.steps:
            assert es.value("learning_rate", es.generation) == 0.0

    def test_a_plan_that_fits_is_kept(self, undisturbed):
        es = beginning()
        es.fit(dataset(), **SETTINGS, max_seconds=600.0)
        assert es.run.plan == [(0, STEPS)]
        oracle.assert_bitwise_equal(es.theta, undisturbed.theta)

    def test_whoever_resumes_keeps_to_the_plan(self, tmp_path):
        path, es = tmp_path / "run.npz", beginning()

        def stop(es):
            if es.generation == 30:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            es.fit(dataset(), **SETTINGS, steps=10**6, max_seconds=20.0, checkpoint=path, after_step=stop)
        planned = fpes.ES.load(path).steps
        assert planned > 30
        resumed = fpes.ES.load(path)
        resumed.fit(dataset(), max_seconds=0.2, checkpoint=path)
        assert resumed.steps == planned
        assert fpes.ES.load(path).generation == resumed.generation >= 30


def test_fitness_of_ones_own():
    """The fraction of right answers, which has no gradient."""
    data = fpes.datasets.load("digits")
    net = fpes.LinearNetwork([16, 32, 10])
    es = fpes.ES(net, net.init(0), size=64, sigma=0.05, learning_rate=0.02, steps=80)
    es.fit(data, fitness=lambda outputs, y: (outputs.argmax(axis=2) == y).mean(axis=1, dtype=np.float32))
    assert es.records[-1].train > es.records[0].train + 0.3


def rightness(outputs, y):
    return (outputs.argmax(axis=2) == y).mean(axis=1, dtype=np.float32)


class TestFitnessIsPartOfTheRun:
    """A checkpoint can't hold a function. It knows that there was one."""

    @pytest.fixture
    def path(self, tmp_path):
        net = fpes.LinearNetwork([16, 40, 2])
        es, path = fpes.ES(net, net.init(0), size=16, sigma=0.1), tmp_path / "run.npz"
        with pytest.raises(KeyboardInterrupt):
            es.fit(dataset(), steps=8, batch=64, fitness=rightness, checkpoint=path, after_step=interrupted_at(4))
        return path

    def test_forgotten(self, path):
        es = fpes.ES.load(path)
        with pytest.raises(ValueError, match=r"fitness is not given, and the 4 generations so far used .*'rightness'"):
            es.fit(dataset(), checkpoint=path)
        assert es.generation == 4

    def test_given_again(self, path):
        whole, parts = fpes.ES.load(path), fpes.ES.load(path)
        whole = fpes.ES(whole.net, whole.net.init(0), size=16, sigma=0.1)
        whole.fit(dataset(), steps=8, batch=64, fitness=rightness)
        parts.fit(dataset(), fitness=rightness, checkpoint=path)
        oracle.assert_bitwise_equal(parts.theta, whole.theta)

    def test_another_one_is_named(self, path):
        def other(outputs, y):
            return rightness(outputs, y)

        es = fpes.ES.load(path)
        with pytest.warns(
            fpes.TrainingWarning, match=r"fitness is '.*other' from generation 4 on, and was 'rightness'"
        ):
            es.fit(dataset(), fitness=other, checkpoint=path)
        assert fpes.ES.load(path).run.fitness.endswith("other")


@pytest.mark.parametrize("value", [[0.0] * 16, None, np.float32(1), 1.0, "good"], ids=repr)
def test_what_a_fitness_function_gives_is_looked_at_first(value):
    es = beginning_of(16)
    with pytest.raises(TypeError, match=r"the fitness function gives is a \w+, expected"):
        es.fit(dataset(), steps=2, batch=8, fitness=lambda outputs, y: value)
    assert es.generation == 0


def beginning_of(size: int, **settings) -> fpes.ES:
    net = fpes.LinearNetwork([16, 40, 2])
    return fpes.ES(net, net.init(0), size=size, sigma=0.1, **settings)


@pytest.mark.parametrize("samples", [60, 300, 700])
def test_importance_begins_anew_with_other_data(samples):
    """What it remembers is of the samples that it has seen; of others it sees every one before it prefers any."""
    x = np.random.default_rng(1).random((samples, 16), dtype=np.float32)
    y = (x[:, 0] > 0.5).astype(np.int32)
    other = Dataset("other", x, y, x, y, 2)
    es = beginning_of(16)
    es.fit(dataset(), steps=20, batch=64, importance=fpes.datasets.ImportanceSampling())
    epoch = samples // min(64, samples)
    es.fit(other, steps=20 + epoch)
    assert len(es.residuals) == samples
    assert (es.residuals != np.float32(0.9)).sum() == epoch * min(64, samples)
    es.fit(other, steps=30 + epoch)
    assert len(es.residuals) == samples


@pytest.mark.parametrize(
    "perturbation",
    [fpes.FullRank(), fpes.NodePerturbation(allocation=fpes.OneLayer((16, None)))],
    ids=["full", "node"],
)
@pytest.mark.parametrize("groups", [1, 4])
def test_importance_sampling_weighs_losses_and_remembers_them(perturbation, groups):
    """One generation after the first epoch, done again by hand."""
    data, importance, batch = dataset(), fpes.datasets.ImportanceSampling(0.5, 0.3), 128 // groups
    net = fpes.LinearNetwork([16, 40, 2])
    es = fpes.ES(net, net.init(0), size=16, sigma=0.1, perturbation=perturbation, shaping="none")
    es.fit(data, steps=2, batch=batch, groups=groups, importance=importance)
    population, before, theta = es.ask(), es.residuals, es.theta
    assert ((before == np.float32(0.9)).sum(), es.generation) == (300 - 256, 2)
    rows, weights = importance.draw(before, 128, es.seed, 2)
    shape = (batch,) if groups == 1 else (groups, batch)
    x, y = data.x_train[rows].reshape(*shape, 16), data.y_train[rows].reshape(shape)
    losses = population.evaluate(x, y, per_sample=True).losses.reshape(groups, -1, batch)
    es.fit(data, steps=3)
    expected = before.copy()
    expected[rows] = 1 - np.exp(-np.maximum(losses.mean(axis=1).ravel(), 1e-4))
    np.testing.assert_allclose(es.residuals, expected, rtol=1e-4, atol=1e-6)
    weighted = -losses * weights.reshape(groups, 1, batch)
    node = isinstance(perturbation, fpes.NodePerturbation)
    fitness = weighted.reshape(16, batch) if node else weighted.mean(axis=2).ravel()
    assert es.fitness == pytest.approx(fitness.mean(), rel=1e-5)
    again = fpes.ES(net, net.init(0), size=16, sigma=0.1, perturbation=perturbation, shaping="none")
    again.fit(data, steps=2, batch=batch, groups=groups, importance=importance)
    again.tell(again.ask().evaluate(x, y).with_fitness(fitness.astype(np.float32)))
    np.testing.assert_allclose(again.theta, es.theta, rtol=1e-4, atol=1e-4 * np.abs(es.theta - theta).max())


def blank(value: float = 0.0, samples: int = 20) -> Dataset:
    x = np.full((samples, 4), value, np.float32)
    return Dataset("blank", x, np.zeros(samples, np.int32), x.copy(), np.zeros(samples, np.int32), 2)


def test_a_dead_network_is_given_up(tmp_path):
    net = fpes.LinearNetwork([4, 8, 2])
    es = fpes.ES(net, np.zeros(net.parameters, np.float32), size=8, sigma=1e-4)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(
            fpes.DivergedError, match=r"for 20 generations all members have had equal fitness.*0\.0%, 0\.0%"
        ):
            es.fit(blank(), steps=100, checkpoint=tmp_path / "run.npz")
    messages = [str(warning.message) for warning in told]
    assert any("layer 1 is dead" in message for message in messages)
    assert any("have the same fitness" in message for message in messages)
    assert fpes.ES.load(tmp_path / "run.npz").generation == 0


def test_a_network_that_flushes_nothing_is_warned_of():
    net = fpes.LinearNetwork([4, 8, 2])
    theta = net.init(0)
    net.unpack(theta)[0][1][...] = 5.0
    es = fpes.ES(net, theta, size=8, sigma=1e-3)
    words = "generation 0: at least 100.0% of the units.*nearly linear. Scale the inputs"
    with pytest.warns(fpes.TrainingWarning, match=words) as told:
        es.fit(blank(), steps=15)
    assert [str(warning.message) for warning in told if "nearly linear" in str(warning.message)][1:] == []
    quiet = fpes.ES(net.with_flush("never"), theta, size=8, sigma=1e-3)
    quiet.fit(blank(), steps=1)


def test_nan_in_the_fitness_keeps_the_last_checkpoint(tmp_path):
    es, path = beginning(), tmp_path / "run.npz"

    def broken(outputs, y):
        return np.full(16, np.nan if es.generation == 7 else 1.0, np.float32) * np.arange(16, dtype=np.float32)

    with pytest.raises(fpes.DivergedError, match="generation 7 is NaN"):
        es.fit(dataset(), batch=64, fitness=broken, checkpoint=path, checkpoint_seconds=0.0)
    assert fpes.ES.load(path).generation == 7


class TestRefusals:
    def test_no_steps_and_no_limit(self):
        es = fpes.ES(fpes.LinearNetwork([4, 2]), np.zeros(10, np.float32), size=4, sigma=0.1)
        with pytest.raises(ValueError, match="neither steps nor max_seconds is given"):
            es.fit(blank())

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"steps": 0}, ValueError, "steps is 0, expected 1"),
            ({"steps": 2, "batch": 21}, ValueError, "batch is 21, expected 1 to 20"),
            ({"steps": 2, "batch": 0}, ValueError, "batch is 0, expected 1 to "),
            ({"steps": 2, "groups": 3}, ValueError, "groups is 3, expected a divisor of the population's 2"),
            ({"steps": 2, "max_seconds": 0.0}, ValueError, "max_seconds is 0.0, expected a number above 0"),
            ({"steps": 2, "chunk": 3}, ValueError, "chunk is 3, expected an even number"),
            ({"steps": 2, "checkpoint": "/nowhere/run.npz"}, OSError, "can't write /nowhere/run.npz"),
            ({"steps": 2.5}, TypeError, "steps is 2.5, expected an integer"),
            ({"steps": 2, "groups": 2**31 - 1}, ValueError, "groups is 2147483647, expected a divisor"),
            ({"steps": 2, "augmentation": True}, TypeError, "augmentation is True, expected a fpes.datasets.Augment"),
            ({"steps": 2, "importance": 0.5}, TypeError, "importance is 0.5, expected a fpes.datasets.Importance"),
            ({"steps": 2, "fitness": "mse"}, TypeError, "fitness is 'mse', expected a function"),
            ({"steps": 2, "after_step": 1}, TypeError, "after_step is 1, expected a function"),
            ({"max_seconds": 10**400}, ValueError, "max_seconds is beyond what a float can hold"),
        ],
    )
    def test_options(self, tmp_path, options, error, words):
        net = fpes.LinearNetwork([4, 2])
        es = fpes.ES(net, net.init(0), size=4, sigma=0.1)
        with pytest.raises(error, match=words):
            es.fit(blank(1.0), **{"checkpoint": tmp_path / "run.npz"} | options)
        assert es.generation == 0
        assert list(tmp_path.iterdir()) == []

    def test_data_that_do_not_fit(self):
        net = fpes.LinearNetwork([5, 2])
        es = fpes.ES(net, net.init(0), size=4, sigma=0.1)
        with pytest.raises(ValueError, match="data has 4 features and 2 classes, and the network has 5 inputs"):
            es.fit(blank(), steps=1)
        with pytest.raises(TypeError, match=r"data is a tuple, expected a fpes\.datasets\.Dataset"):
            es.fit((1, 2), steps=1)

    def test_importance_sampling_of_what_is_no_loss(self):
        importance = fpes.datasets.ImportanceSampling()
        net = fpes.LinearNetwork([4, 2])
        es = fpes.ES(net, net.init(0), size=4, sigma=0.1)
        with pytest.raises(ValueError, match="importance sampling needs the cross-entropy"):
            es.fit(blank(1.0), steps=1, importance=importance, fitness=lambda outputs, y: outputs[:, 0, 0])
        node = fpes.ES(net, net.init(0), size=4, sigma=0.1, perturbation=fpes.NodePerturbation(), shaping="sign")
        with pytest.raises(ValueError, match="shaping is 'sign', expected \"none\""):
            node.fit(blank(1.0), steps=1, importance=importance)

    def test_other_data_half_way(self, tmp_path):
        net = fpes.LinearNetwork([4, 2])
        es = fpes.ES(net, net.init(0), size=4, sigma=0.1)

        def stop(es):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            es.fit(blank(1.0), steps=5, after_step=stop)
        with pytest.raises(ValueError, match=r"first 1 of 5 generations used.*start a new ES"):
            es.fit(blank(2.0))
        es.fit(blank(1.0))
        assert es.generation == 5
