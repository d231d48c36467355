"""The command line, as a user meets it: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import sys
import types

import click.testing
import numpy as np
import pytest

import fpes
from fpes import cli
from fpes.baseline import train_by_backprop
from fpes.cli import train
from fpes.cli.commands import cli as command
from fpes.presets import PRESETS

QUICK = ["--seeds", "1", "--steps", "12", "--population", "32", "--batch", "64", "--quiet"]


@pytest.fixture(autouse=True)
def keep_threads():
    threads = fpes.get_threads()
    yield
    fpes.set_threads(threads)


@pytest.fixture(autouse=True)
def quick_baseline(monkeypatch):
    """Not a good one: it is tested by itself."""
    monkeypatch.setattr(
        train, "train_by_backprop", lambda *given, **named: train_by_backprop(*given, **named | {"steps": 30})
    )


def invoke(*arguments):
    return click.testing.CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_train_prints_the_whole_story_and_writes_it(tmp_path):
    result = invoke("train", *QUICK, "--output", tmp_path)
    assert result.exit_code == 0, result.output
    words = ["backprop", 'trained: flush "boundary"', 'flush "never"', 'flush "always"', "float64", "one matrix"]
    assert [word for word in words if word not in result.output] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "result.json", "seed-0", "theta.npz"]
    assert sorted(path.name for path in (tmp_path / "seed-0").iterdir()) == ["checkpoint.npz", "log.csv"]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_all_that_is_printed_and_agrees_with_the_saved_weights(tmp_path):
    result = invoke("train", *QUICK, "--output", tmp_path, "--json", "--no-plot")
    summary = json.loads(result.stdout)
    assert summary == json.loads((tmp_path / "result.json").read_text())
    (seed,) = summary["seeds"]
    assert seed["finished"] is True
    assert seed["generations"] == seed["steps"] == 12
    assert seed["evaluations"] == 32 * 64 * 12
    data = fpes.datasets.load("digits", seed=0)
    net = fpes.LinearNetwork(summary["network"])
    theta = np.load(tmp_path / "theta.npz")["seed_0"]
    np.testing.assert_array_equal(theta, fpes.ES.load(tmp_path / "seed-0" / "checkpoint.npz").solution)
    assert seed["trained"]["test"] == np.mean(net(theta, data.x_test).argmax(1) == data.y_test)
    never = next(control for control in seed["controls"] if "never" in control["name"])
    assert never["test"] == np.mean(net.with_flush("never")(theta, data.x_test).argmax(1) == data.y_test)


def test_controls_without_underflow_agree_with_each_other(tmp_path):
    summary = json.loads(invoke("train", *QUICK, "--output", tmp_path, "--json").stdout)
    controls = {control["name"]: control["test"] for control in summary["seeds"][0]["controls"]}
    assert controls["float64"] == pytest.approx(controls["one matrix"], abs=0.003)
    assert controls["float64"] == pytest.approx(controls['flush "never"'], abs=0.01)


def test_the_log_has_the_records(tmp_path):
    summary = json.loads(invoke("train", *QUICK, "--output", tmp_path, "--json").stdout)
    with (tmp_path / "seed-0" / "log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    records = summary["seeds"][0]["records"]
    assert [int(row["generation"]) for row in rows] == [record["generation"] for record in records]
    assert rows[-1]["generation"] == "12"
    assert float(rows[-1]["test"]) == records[-1]["test"]
    assert [float(rows[-1][f"active_{layer}"]) for layer in (1, 2, 3)] == records[-1]["active"]
    assert (rows[0]["loss"], records[0]["loss"]) == ("", None)


def test_several_seeds_are_runs_of_their_own(tmp_path):
    options = [*QUICK[2:], "--seed", "5", "--seeds", "2", "--output", tmp_path]
    result = invoke("train", *options)
    assert result.exit_code == 0, result.output
    assert "test, by seed" in result.output
    thetas = np.load(tmp_path / "theta.npz")
    assert thetas.files == ["seed_5", "seed_6"]
    assert (thetas["seed_5"] != thetas["seed_6"]).any()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_what_it_is(name):
    preset = PRESETS[name]
    es = preset.es(0)
    assert es.net.sizes == preset.sizes
    assert preset.steps or preset.max_minutes
    text = "".join(invoke("train", "--help").output.split())
    assert f"{name}:" in text
    assert "".join(preset.algorithm.split()) in text
    node = isinstance(preset.perturbation, fpes.NodePerturbation)
    assert node == ("Not the algorithm of 2017" in preset.algorithm) == name.startswith("mnist-node")


class TestResume:
    def test_an_interrupted_run_goes_on_to_the_same_bits(self, tmp_path, monkeypatch):
        invoke("train", *QUICK, "--output", tmp_path / "whole")
        advance = fpes.ES.advance

        def interrupted(self, *arguments):
            advance(self, *arguments)
            if self.generation == 5:
                raise KeyboardInterrupt

        monkeypatch.setattr(fpes.ES, "advance", interrupted)
        options = [*QUICK[2:], "--seeds", "3", "--output", tmp_path / "parts"]
        result = invoke("train", *options)
        assert result.exit_code == 130, result.output
        assert "Seed 0 is not finished: generation 5 of 12" in " ".join(result.output.split())
        summary = json.loads((tmp_path / "parts" / "result.json").read_text())
        assert [(seed["generations"], seed["finished"]) for seed in summary["seeds"]] == [(5, False)]
        monkeypatch.undo()
        result = invoke("train", *QUICK, "--output", tmp_path / "parts", "--resume")
        assert result.exit_code == 0, result.output
        whole, parts = (fpes.ES.load(tmp_path / name / "seed-0" / "checkpoint.npz") for name in ("whole", "parts"))
        np.testing.assert_array_equal(parts.theta, whole.theta)
        assert parts.records[-1].generation == 12

    def test_another_setting_is_refused(self, tmp_path):
        invoke("train", *QUICK, "--output", tmp_path)
        result = invoke("train", *QUICK, "--sigma", "0.5", "--output", tmp_path, "--resume")
        assert result.exit_code == 2
        assert "is from a run with sigma 0.03 and not 0.5" in result.stderr

    def test_without_it_the_old_checkpoint_is_kept(self, tmp_path):
        invoke("train", *QUICK, "--output", tmp_path)
        before = (tmp_path / "seed-0" / "checkpoint.npz").read_bytes()
        result = invoke("train", *QUICK, "--output", tmp_path)
        assert "checkpoint-before.npz" in result.output
        assert (tmp_path / "seed-0" / "checkpoint-before.npz").read_bytes() == before

    def test_a_damaged_checkpoint_is_named(self, tmp_path):
        (tmp_path / "seed-0").mkdir()
        (tmp_path / "seed-0" / "checkpoint.npz").write_bytes(b"PK half a file")
        result = invoke("train", *QUICK, "--output", tmp_path, "--resume")
        assert result.exit_code == 2
        assert "is damaged, or no checkpoint of fpes" in result.stderr


class TestCompare:
    def test_the_same_weights_in_every_arithmetic(self, tmp_path):
        invoke("train", *QUICK, "--output", tmp_path)
        checkpoint = tmp_path / "seed-0" / "checkpoint.npz"
        result = invoke("compare", checkpoint)
        assert result.exit_code == 0, result.output
        words = ["as trained", 'flush "never"', 'flush "always"', "float64", "one matrix", "boundary of layer 3 off"]
        assert [word for word in words if word not in result.output] == []
        assert (tmp_path / "seed-0" / "controls.png").read_bytes().startswith(b"\x89PNG")
        controls = json.loads(invoke("compare", checkpoint, "--json", "--output", tmp_path).stdout)["controls"]
        data = fpes.datasets.load("digits", seed=0)
        es = fpes.ES.load(checkpoint)
        assert controls[0]["test"] == np.mean(es.net(es.solution, data.x_test).argmax(1) == data.y_test)
        assert len(controls) == 1 + 4 + 3

    def test_what_can_not_be_compared(self, tmp_path):
        assert "there is no such checkpoint" in invoke("compare", tmp_path / "none.npz").stderr
        net = fpes.LinearNetwork([4, 2])
        fpes.ES(net, net.init(0), size=4, sigma=0.1).save(tmp_path / "bare.npz")
        result = invoke("compare", tmp_path / "bare.npz")
        assert result.exit_code == 2
        assert "doesn't say what it was trained on" in result.stderr


class TestTensorBoard:
    def test_scalars(self, tmp_path, monkeypatch):
        written = []

        class Writer:
            def __init__(self, folder):
                written.append(folder)

            def add_scalar(self, *scalar):
                written.append(scalar)

            def close(self):
                written.append("closed")

        monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
        result = invoke("train", *QUICK, "--output", tmp_path, "--tensorboard")
        assert result.exit_code == 0, result.output
        assert written[0] == str(tmp_path / "seed-0" / "tensorboard")
        assert written[-1] == "closed"
        records = fpes.ES.load(tmp_path / "seed-0" / "checkpoint.npz").records
        assert ("test", records[-1].test, 12) in written
        assert ("active/layer 2", records[-1].active[1], 12) in written

    def test_it_is_named_where_it_is_missing(self, tmp_path, monkeypatch):
        for module in ("tensorboardX", "torch.utils.tensorboard"):
            monkeypatch.setitem(sys.modules, module, None)
        result = invoke("train", *QUICK, "--output", tmp_path, "--tensorboard")
        assert result.exit_code == 2
        assert "pip install tensorboardX" in result.stderr


def test_a_dead_run_ends_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(
        fpes.ES, "advance", lambda *_: (_ for _ in ()).throw(fpes.DivergedError("fitness is NaN: lower it"))
    )
    result = invoke("train", *QUICK, "--output", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.strip() == "fpes: fitness is NaN: lower it"
    assert fpes.ES.load(tmp_path / "seed-0" / "checkpoint.npz").generation == 0


def test_demo_draws_a_picture(tmp_path):
    result = invoke("demo", "--seconds", "0.3", "--quiet", "--output", tmp_path)
    assert result.exit_code == 0, result.output
    assert "with ftz on" in result.output
    assert (tmp_path / "spirals.png").read_bytes().startswith(b"\x89PNG")


def test_info_says_what_is_absent_and_why():
    result = invoke("info")
    assert result.exit_code == 0
    assert fpes.get_isa() in result.output
    assert "CUDA ftz" in result.output
    if importlib.util.find_spec("cupy") is None:
        assert "fpes[cuda]" in result.output  # brackets are not markup
    cuda = json.loads(invoke("info", "--json").stdout)["cuda"]
    assert cuda["built"] == bool(cuda["builds"])
    assert cuda["reason"] or sorted(cuda["builds"]) == ["ftz", "ieee"]


def test_threads_option_is_used(tmp_path):
    assert json.loads(invoke("--threads", "3", "info", "--json").stdout)["cpu"]["threads"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--population", "33"], "size is 33, expected an even number"),
        (["train", "--sigma", "0"], "0.0 is not in the range"),
        (["train", "--preset", "cifar"], "'cifar' is not one of"),
        (["train", "--preset", "mnist-node", "--data-dir", "/nowhere"], "/nowhere"),
    ],
)
def test_mistakes_get_one_line_and_status_2(arguments, words, tmp_path):
    output = ["--output", tmp_path] if "cifar" not in arguments else []
    result = invoke(*arguments, *output)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_an_unwritable_output_is_known_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(fpes.ES, "fit", lambda *_, **__: pytest.fail("trained before looking"))
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    result = invoke("train", *QUICK, "--output", blocker / "results")
    assert result.exit_code == 2
    assert "can't write to folder" in result.stderr


def test_a_result_is_whole_or_not_there(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "result.json").write_text("the last one")
    monkeypatch.setattr(os, "fsync", full_disk)
    result = invoke("train", *QUICK, "--output", tmp_path)
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["result.json", "seed-0"]
    assert (tmp_path / "result.json").read_text() == "the last one"


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fpes.cli.commands", None)
    monkeypatch.delitem(sys.modules, "fpes.cli.commands")
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit, match=r'needs click: pip install "fpes\[cli\]"'):
        cli.main()
