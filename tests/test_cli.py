"""The command line, as a user meets it: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import json
import os
import sys

import click.testing
import numpy as np
import pytest

import fpes
from fpes import cli
from fpes.cli import runs
from fpes.cli.commands import cli as command

QUICK = ["--seeds", "1", "--seconds", "0.3", "--population", "32", "--batch", "64", "--quiet"]


@pytest.fixture(autouse=True)
def keep_threads():
    threads = fpes.get_threads()
    yield
    fpes.set_threads(threads)


def invoke(*arguments):
    return click.testing.CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_train_prints_the_whole_story_and_writes_it(tmp_path):
    result = invoke("train", *QUICK, "--output", tmp_path)
    assert result.exit_code == 0, result.output
    words = ["backprop", "ES with underflow", 'flush "never"', 'flush "always"', "float64", "one matrix"]
    assert [word for word in words if word not in result.output] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.png", "result.json", "theta.npz"]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_all_that_is_printed_and_agrees_with_the_saved_weights(tmp_path):
    result = invoke("train", *QUICK, "--output", tmp_path, "--json", "--no-plot")
    summary = json.loads(result.stdout)
    assert summary == json.loads((tmp_path / "result.json").read_text())
    assert summary["interrupted"] is False
    (seed,) = summary["seeds"]
    assert seed["evaluations"] == 32 * 64 * seed["generations"]
    data = fpes.datasets.load("digits", seed=0)
    net = fpes.LinearNetwork(summary["network"])
    theta = np.load(tmp_path / "theta.npz")["seed_0"]
    assert seed["es"]["test"] == np.mean(net(theta, data.x_test).argmax(1) == data.y_test)
    never = next(control for control in seed["controls"] if "never" in control["name"])
    assert never["test"] == np.mean(net.with_flush("never")(theta, data.x_test).argmax(1) == data.y_test)


def test_controls_without_underflow_agree_with_each_other(tmp_path):
    summary = json.loads(invoke("train", *QUICK, "--output", tmp_path, "--json").stdout)
    controls = {control["name"]: control["test"] for control in summary["seeds"][0]["controls"]}
    assert controls["float64"] == pytest.approx(controls["one matrix"], abs=0.003)
    assert controls["float64"] == pytest.approx(controls['flush "never"'], abs=0.01)


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
    cuda = json.loads(invoke("info", "--json").stdout)["cuda"]
    assert cuda["built"] == bool(cuda["builds"])
    assert cuda["reason"] or sorted(cuda["builds"]) == ["ftz", "ieee"]


def test_threads_option_is_used(tmp_path):
    assert json.loads(invoke("--threads", "3", "info", "--json").stdout)["cpu"]["threads"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--population", "33", "--seeds", "1"], "size is 33, expected an even number"),
        (["train", "--sigma", "0"], "0.0 is not in the range"),
        (["train", "--dataset", "cifar"], "'cifar' is not one of"),
        (["train", "--dataset", "mnist", "--data-dir", "/nowhere"], "/nowhere"),
    ],
)
def test_mistakes_get_one_line_and_status_2(arguments, words, tmp_path):
    output = ["--output", tmp_path] if "cifar" not in arguments else []
    result = invoke(*arguments, *output)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_an_unwritable_output_is_known_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.Run, "train", lambda *_: pytest.fail("trained before looking"))
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    result = invoke("train", *QUICK, "--output", blocker / "results")
    assert result.exit_code == 2
    assert "can't write to folder" in result.stderr


def test_ctrl_c_ends_with_what_was_reached(tmp_path, monkeypatch):
    generation = runs.Run._generation

    def interrupted(self, rng, done):
        if self.es.generation == 5:
            raise KeyboardInterrupt
        return generation(self, rng, done)

    monkeypatch.setattr(runs.Run, "_generation", interrupted)
    result = invoke("train", *QUICK[2:], "--seconds", "60", "--seeds", "3", "--output", tmp_path)
    assert result.exit_code == 130, result.output
    assert "Interrupted in seed 0" in result.output
    summary = json.loads((tmp_path / "result.json").read_text())
    assert summary["interrupted"] is True
    assert [seed["generations"] for seed in summary["seeds"]] == [5]


def test_a_result_is_whole_or_not_there(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "result.json").write_text("the last one")
    monkeypatch.setattr(os, "fsync", full_disk)
    result = invoke("train", *QUICK, "--output", tmp_path)
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert (tmp_path / "result.json").read_text() == "the last one"


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fpes.cli.commands", None)
    monkeypatch.delitem(sys.modules, "fpes.cli.commands")
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit, match=r'needs click: pip install "fpes\[cli\]"'):
        cli.main()
