"""Checkpoint files: what is written is read, and what isn't whole or isn't ours is refused."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import oracle
import pytest

import fpes
from fpes import checkpoint
from fpes.datasets import Augmentation

NET = fpes.LinearNetwork([5, 40, 3], scaling=2.0**124)
SETTINGS = {
    "size": 24,
    "sigma": fpes.Exponential(0.2, 0.1),
    "perturbation": fpes.NodePerturbation(noise="rademacher", units=(16, None), draws=(3, 1)),
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
    es.run.augmentation = Augmentation(1, 5, shift=0.5)
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
