"""Checkpoint files: what is written is read, and what isn't whole or isn't ours is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from decimal import Decimal

import numpy as np
import oracle
import pytest

import fpes
from fpes import checkpoint, files
from fpes import es as es_module
from fpes.datasets import Augmentation
from fpes.training import TrainingSettings

NET = fpes.LinearNetwork([5, 40, 3], scaling=2.0**124)
SETTINGS = {
    "size": 24,
    "sigma": fpes.Exponential(0.2, 0.1),
    "perturbation": fpes.NodePerturbation(noise="rademacher", allocation=fpes.OneLayer(units=(16, None), pairs=(3, 1))),
    "optimiser": fpes.ClipUp(momentum=0.8),
    "learning_rate": fpes.WarmUp(fpes.Cosine(0.01, 0.001), 0.1),
    "weight_decay": 0.25,
    "clip": 3.0,
    "shaping": "z_score",
    "averaging": 0.9,
    "steps": 50,
    "seed": 2**64 - 1,
}


def trained(generations: int = 3, **changes) -> fpes.ES:
    es = fpes.ES(NET, NET.init(1), **{**SETTINGS, **changes})
    rng = np.random.default_rng(0)
    for _ in range(generations):
        x, y = rng.random((7, 5), dtype=np.float32), rng.integers(0, 3, 7)
        es.tell(es.ask().evaluate(x, y, per_sample=True))
    return es


@pytest.fixture
def saved(tmp_path):
    es = trained()
    es.run.settings = TrainingSettings(augmentation=Augmentation(1, 5, shift=0.5))
    path = tmp_path / "run.npz"
    es.save(path)
    return es, path


def test_everything_comes_back(saved):
    es, path = saved
    back = fpes.ES.load(path)
    for name, value in SETTINGS.items():
        assert getattr(back, name) == value, name
    assert (back.generation, back.evaluations, back.fitness) == (3, es.evaluations, es.fitness)
    assert repr(back.net) == repr(es.net)
    assert back.run == es.run
    for name in ("theta", "solution"):
        oracle.assert_bitwise_equal(getattr(back, name), getattr(es, name), name)
    assert (back.solution != back.theta).any()


def test_a_state_with_nan_does_not_replace_a_good_one(saved):
    """It could be written, and not be read."""
    es, path = saved
    before = path.read_bytes()
    es.theta[3] = np.nan
    with pytest.raises(ValueError, match=r"the state is not saved, because theta has numbers that are NaN or infinite"):
        es.save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("optimiser", [fpes.SGD(), fpes.Adam(beta2=0.999), fpes.ClipUp()], ids=repr)
@pytest.mark.parametrize("perturbation", [fpes.FullRank(), fpes.LowRank(3), SETTINGS["perturbation"]], ids=repr)
def test_going_on_from_a_checkpoint_gives_the_same_bits(tmp_path, optimiser, perturbation):
    x, y = np.random.default_rng(1).random((7, 5), dtype=np.float32), np.arange(7) % 3

    def go_on(es, generations):
        for _ in range(generations):
            es.tell(es.ask().evaluate(x, y, per_sample=isinstance(perturbation, fpes.NodePerturbation)))
        return es

    def start():
        return fpes.ES(NET, NET.init(1), **{**SETTINGS, "optimiser": optimiser, "perturbation": perturbation})

    without = go_on(start(), 9)
    half_way = go_on(start(), 4)
    half_way.save(tmp_path / "run.npz")
    resumed = go_on(fpes.ES.load(tmp_path / "run.npz"), 5)
    oracle.assert_bitwise_equal(resumed.theta, without.theta)
    oracle.assert_bitwise_equal(resumed.solution, without.solution)


def test_numpy_alone_reads_it(saved):
    es, path = saved
    with np.load(path, allow_pickle=False) as archive:
        oracle.assert_bitwise_equal(archive["theta"], es.theta)
        description = json.loads(str(archive["description"]))
    assert description["version"] == fpes.__version__
    assert description["settings"]["sigma"] == {"type": "Exponential", "start": 0.2, "end": 0.1}


def test_every_damaged_byte_is_noticed(saved, tmp_path):
    """A flipped bit anywhere gives an error, or is in padding of the archive and changes nothing."""
    es, path = saved
    content = path.read_bytes()
    damaged = tmp_path / "damaged.npz"
    rng = np.random.default_rng(0)
    noticed = 0
    for place in rng.integers(0, len(content), 150):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        damaged.write_bytes(flipped)
        try:
            back = fpes.ES.load(damaged)
        except fpes.CheckpointError:
            noticed += 1
        else:
            oracle.assert_bitwise_equal(back.theta, es.theta)
            assert back.generation == es.generation
    assert noticed > 100


def test_a_truncated_file_is_refused(saved, tmp_path):
    content = saved[1].read_bytes()
    cut = tmp_path / "cut.npz"
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        cut.write_bytes(content[:length])
        with pytest.raises(fpes.CheckpointError, match=r"cut.npz is damaged, or no checkpoint of fpes"):
            fpes.ES.load(cut)


def foreign_files(folder):
    """Files of other kinds, and what is said about them."""
    folder.mkdir()
    np.savez(folder / "arrays.npz", theta=np.zeros(3, np.float32))
    np.save(folder / "array.npy", np.zeros(3))
    np.savez(folder / "pickle.npz", description=np.array({"a": 1}, dtype=object), sha256=np.array("0"))
    (folder / "text.npz").write_text("theta = 1")
    with zipfile.ZipFile(folder / "zip.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    return {
        "arrays.npz": "lacks the entry description and sha256",
        "array.npy": "it is one NumPy array",
        "pickle.npz": "entry description has dtype object",
        "text.npz": "damaged, or no checkpoint",
        "zip.npz": "no checkpoint of fpes",
    }


def test_foreign_files_are_refused(tmp_path):
    for name, words in foreign_files(tmp_path / "foreign").items():
        with pytest.raises(fpes.CheckpointError, match=words):
            fpes.ES.load(tmp_path / "foreign" / name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz: there is no such checkpoint"):
        fpes.ES.load(tmp_path / "nothing.npz")
    with pytest.raises(fpes.CheckpointError, match="is a folder"):
        fpes.ES.load(tmp_path)


def test_a_newer_format_is_named(saved, monkeypatch):
    es, path = saved
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    es.save(path)
    monkeypatch.setattr(checkpoint, "VERSION", 1)
    with pytest.raises(fpes.CheckpointError, match="format version 2, and this fpes knows versions up to 1"):
        fpes.ES.load(path)


def test_settings_that_are_unknown_are_named(tmp_path):
    path = tmp_path / "run.npz"
    es = trained()
    theta = {"theta": es.theta}
    description, arrays = None, None
    es.save(path)
    description, arrays = checkpoint.read(path)
    description["settings"]["optimiser"] = {"type": "Lion"}
    checkpoint.write(path, description, arrays)
    with pytest.raises(fpes.CheckpointError, match=r"can't make sense of it: ValueError: unknown setting 'Lion'"):
        fpes.ES.load(path)
    checkpoint.write(path, {"version": "9"}, theta)
    with pytest.raises(fpes.CheckpointError, match="written by fpes 9"):
        fpes.ES.load(path)


def test_a_full_disk_leaves_the_last_checkpoint(saved, monkeypatch):
    es, path = saved
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"can't write .*run\.npz: No space left on device"):
        es.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["run.npz"]


def test_numbers_of_numpy_become_pythons(tmp_path):
    """So that a run that goes on computes with the same numbers as one that comes back."""
    settings = {
        "size": np.int64(24),
        "sigma": fpes.Exponential(np.float32(0.2), np.float64(0.1)),
        "perturbation": fpes.NodePerturbation(allocation=fpes.OneLayer((np.int32(16), None), np.array([3, 1]))),
        "optimiser": fpes.SGD(np.float32(0.8)),
        "learning_rate": fpes.WarmUp(fpes.Cosine(np.float32(0.01)), np.float32(0.1)),
        "weight_decay": np.float32(0.3),
        "clip": Decimal("3.5"),
        "averaging": np.float16(0.9),
        "steps": np.uint8(50),
        "seed": np.uint64(2**64 - 1),
    }
    es, path = trained(1, **settings), tmp_path / "run.npz"
    es.sigma = np.float32(0.25)  # assigned between generations
    es.save(path)
    back = fpes.ES.load(path)
    for name in SETTINGS:
        there, here = getattr(back, name), getattr(es, name)
        assert (there, repr(there)) == (here, repr(here)), name
    x, y = np.random.default_rng(1).random((7, 5), dtype=np.float32), np.arange(7) % 3
    for each in (es, back):
        for _ in range(3):
            each.tell(each.ask().evaluate(x, y, per_sample=True))
    oracle.assert_bitwise_equal(back.theta, es.theta)


@pytest.mark.parametrize(
    ("bad", "mean"), [([-np.inf], -np.inf), ([np.inf], np.inf), ([np.inf, -np.inf], np.nan)], ids=str
)
def test_infinite_fitness_is_kept(tmp_path, bad, mean):
    es, path = fpes.ES(NET, NET.init(0), size=8, sigma=0.1), tmp_path / "run.npz"
    fitness = np.arange(8, dtype=np.float32)
    fitness[: len(bad)] = bad
    es.tell(fitness)
    es.save(path)
    back = fpes.ES.load(path)
    np.testing.assert_equal((es.fitness, back.fitness), (mean, mean))
    oracle.assert_bitwise_equal(back.theta, es.theta)


class TestWhoseFileItIs:
    def test_a_later_state_of_the_same_run_replaces_an_earlier_one(self, tmp_path):
        es, path = trained(), tmp_path / "run.npz"
        es.save(path)
        es.save(path)
        back = fpes.ES.load(path)
        back.tell(back.ask().evaluate(np.ones((2, 5), np.float32), [0, 1], per_sample=True))
        back.save(path)
        assert fpes.ES.load(path).generation == 4
        with pytest.raises(
            FileExistsError, match=r"not replaced by generation 3, because it holds generation 4 of the same"
        ):
            es.save(path)
        assert fpes.ES.load(path).generation == 4

    def test_another_runs_is_kept_unless_the_user_says_so(self, tmp_path):
        path = tmp_path / "run.npz"
        trained().save(path)
        kept = path.read_bytes()
        with pytest.raises(
            FileExistsError, match=r"holds generation 3 of another run\. Go on with it by fpes\.ES\.load"
        ):
            trained(20).save(path)
        assert path.read_bytes() == kept
        trained(1).save(path, overwrite=True)
        assert fpes.ES.load(path).generation == 1

    def test_what_has_no_generation_yet_may_go(self, tmp_path):
        path = tmp_path / "run.npz"
        path.touch()  # as tempfile.mkstemp() leaves it
        trained(0).save(path)
        trained(0, seed=1).save(path)
        assert fpes.ES.load(path).seed == 1

    def test_what_is_no_checkpoint_is_kept(self, tmp_path):
        path = tmp_path / "thesis.txt"
        path.write_text("three years of work")
        with pytest.raises(
            FileExistsError, match=r"isn't this run's: .*thesis.txt is damaged, or no checkpoint of fpes"
        ):
            trained().save(path)
        assert path.read_text() == "three years of work"

    def test_one_writer_at_a_time(self, tmp_path, monkeypatch):
        monkeypatch.setattr(es_module, "_SAVING_SECONDS", 0.05)
        path = tmp_path / "run.npz"
        with files.owned(path), pytest.raises(BlockingIOError, match=r"run\.npz is in use by process"):
            trained().save(path)
        assert list(tmp_path.iterdir()) == []

    def test_every_run_is_another(self):
        assert len({trained(0).run.id for _ in range(3)}) == 3


class TestInterrupted:
    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_ctrl_c_while_saving_is_heard_when_the_file_is_whole(self, tmp_path, monkeypatch, call):
        es, path = trained(), tmp_path / "run.npz"
        usual = getattr(os, call)

        def interrupted(*arguments, **named):
            os.kill(os.getpid(), signal.SIGINT)
            return usual(*arguments, **named)

        monkeypatch.setattr(os, call, interrupted)
        handler = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            es.save(path)
        assert signal.getsignal(signal.SIGINT) is handler
        monkeypatch.undo()
        assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]
        assert fpes.ES.load(path).generation == 3

    def test_the_third_one_does_not_wait(self, tmp_path, monkeypatch):
        es, path = trained(), tmp_path / "run.npz"
        es.save(path)
        kept = path.read_bytes()

        def hanging(descriptor):
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("still here")

        monkeypatch.setattr(os, "fsync", hanging)
        with pytest.raises(KeyboardInterrupt):
            es.save(path)
        assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]
        assert path.read_bytes() == kept

    def test_saving_when_python_ends(self, tmp_path):
        path = tmp_path / "run.npz"
        script = f"""
import atexit, fpes
net = fpes.LinearNetwork([2, 2])
es = fpes.ES(net, net.init(0), size=4, sigma=0.1)
atexit.register(es.save, {str(path)!r})
"""
        run = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd=tmp_path)
        assert (run.returncode, run.stderr) == (0, "")
        assert fpes.ES.load(path).generation == 0


class TestCrafted:
    """The digest is right; what it is of isn't. Every number that C++ or NumPy will be given is looked at."""

    @pytest.fixture
    def parts(self, saved):
        return checkpoint.read(saved[1])

    def refused(self, tmp_path, description, arrays):
        path = tmp_path / "crafted.npz"
        checkpoint.write(path, description, arrays)
        with pytest.raises(fpes.CheckpointError, match=r"crafted\.npz") as caught:
            fpes.ES.load(path)
        return str(caught.value)

    @pytest.mark.parametrize("name", ["theta", "memory_velocity", "average", "residuals"])
    @pytest.mark.parametrize("kind", ["short", "long", "float64", "int32", "big-endian", "2-D", "infinite", "text"])
    def test_arrays(self, tmp_path, parts, name, kind):
        description, arrays = parts
        run = description["run"]
        run["data"] = {"name": "d", "shape": [9, 5], "crc32": 0}
        arrays["residuals"] = np.full(9, 0.5, np.float32)
        right = arrays[name]
        arrays[name] = {
            "short": right[:-1],
            "long": np.append(right, right[:1]),
            "float64": right.astype(np.float64),
            "int32": right.astype(np.int32),
            "big-endian": right.astype(">f4"),
            "2-D": right[None],
            "infinite": np.where(np.arange(right.size) == 1, np.inf, right).astype(np.float32),
            "text": np.array("0.5"),
        }[kind]
        assert name in self.refused(tmp_path, description, arrays)

    @pytest.mark.parametrize("name", ["theta", "memory_velocity"])
    def test_missing_arrays(self, tmp_path, parts, name):
        description, arrays = parts
        del arrays[name]
        assert name in self.refused(tmp_path, description, arrays)

    def test_arrays_that_nobody_knows(self, tmp_path, parts):
        description, arrays = parts
        assert "more" in self.refused(tmp_path, description, arrays | {"more": np.zeros(3, np.float32)})

    @pytest.mark.parametrize("residual", [0.0, -0.5, 1.5])
    def test_residuals(self, tmp_path, parts, residual):
        description, arrays = parts
        description["run"]["data"] = {"name": "d", "shape": [9, 5], "crc32": 0}
        arrays["residuals"] = np.full(9, residual, np.float32)
        assert "residuals" in self.refused(tmp_path, description, arrays)

    @pytest.mark.parametrize(
        "place",
        [
            "network",
            "network.sizes",
            "settings",
            "settings.size",
            "settings.sigma",
            "settings.seed",
            "settings.steps",
            "settings.perturbation",
            "settings.optimiser",
            "generation",
            "evaluations",
            "fitness",
            "run",
            "run.data",
            "run.since",
            "run.settings",
            "run.seconds",
            "run.plan",
            "run.records",
        ],
    )
    @pytest.mark.parametrize(
        "value", [10**400, "many", [[1]], {"type": "Lion"}, "missing"], ids=lambda value: str(value)[:8]
    )
    def test_descriptions(self, tmp_path, parts, place, value):
        description, arrays = parts
        *way, last = place.split(".")
        where = description
        for step in way:
            where = where[step]
        if value == "missing":
            del where[last]
        else:
            where[last] = value
        self.refused(tmp_path, description, arrays)

    def test_descriptions_that_are_no_descriptions(self, tmp_path):
        for text in ("[]", "3", "[" * 100_000, '{"format": "fpes checkpoint", "format_version": "1"}', "NaN", "\ud800"):
            path = tmp_path / "crafted.npz"
            digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()
            np.savez(path, description=np.array(text), sha256=np.array(digest))
            with pytest.raises(fpes.CheckpointError, match=r"crafted\.npz"):
                fpes.ES.load(path)

    def test_what_unpacks_to_more_than_there_is(self, saved, tmp_path):
        """Ten million zeros in ten thousand bytes; nobody's memory is filled to find that out."""
        path = tmp_path / "bomb.npz"
        with zipfile.ZipFile(saved[1]) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
            new.writestr("memory_more.npy", bytes(10_000_000))
        with pytest.raises(fpes.CheckpointError, match="entries are compressed, or larger"):
            fpes.ES.load(path)

    @pytest.mark.parametrize("shape", [(10**12,), (10**30,), (-1,), (2**62, 4)])
    def test_arrays_that_say_they_are_larger(self, saved, tmp_path, shape):
        path, header = tmp_path / "large.npz", io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(saved[1]) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                new.writestr(name, header.getvalue() if name == "theta.npy" else old.read(name))
        with pytest.raises(fpes.CheckpointError, match=r"large\.npz is damaged: entry theta has dtype float32, shape"):
            fpes.ES.load(path)

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.npz")
        with pytest.raises(fpes.CheckpointError, match=r"pipe\.npz is no regular file"):
            fpes.ES.load(tmp_path / "pipe.npz")
