"""The command line, as a user meets it: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import click.testing
import numpy as np
import pytest

import fpes
from fpes import cli, files, plots
from fpes._signals import Terminated
from fpes.baseline import train_by_backprop
from fpes.cli import bench_results, commands, train
from fpes.cli.commands import cli as command
from fpes.files import writable_folder
from fpes.presets import PRESETS
from fpes.training import curves

QUICK = ["--seeds", "1", "--steps", "12", "--population", "32", "--batch", "64", "--quiet"]
STORED = Path(__file__).parent.parent / "benchmarks" / "results" / "2026-11-27-cpu-zen5.json"
FOREIGN_BACKENDS = ["module://nowhere_at_all.backend", "module://matplotlib_inline.backend_inline", "nonsense", "qtagg"]


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
    with np.load(tmp_path / "theta.npz") as thetas:
        theta = thetas["seed_0"]
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
    with np.load(tmp_path / "theta.npz") as thetas:
        assert thetas.files == ["seed_5", "seed_6"]
        assert (thetas["seed_5"] != thetas["seed_6"]).any()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_what_it_is(name):
    preset = PRESETS[name]
    es = preset.es(0)
    assert es.net.sizes == preset.sizes
    assert preset.steps > 0
    assert preset.max_minutes is None  # the clock is a limit that a user asks for
    text = "".join(invoke("train", "--help").output.split())
    assert f"{name}:" in text
    assert "".join(preset.algorithm.split()) in text
    node = isinstance(preset.perturbation, fpes.NodePerturbation)
    assert node == ("Not the algorithm of 2017" in preset.algorithm) == name.startswith("mnist-node")


class TestResume:
    def test_an_interrupted_run_goes_on_to_the_same_bits(self, tmp_path, monkeypatch):
        invoke("train", *QUICK, "--output", tmp_path / "whole")
        accept = fpes.ES.accept

        def interrupted(self, *arguments):
            accept(self, *arguments)
            if self.generation == 5:
                raise KeyboardInterrupt

        monkeypatch.setattr(fpes.ES, "accept", interrupted)
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

    def test_more_steps_go_on_and_say_what_becomes_of_the_schedule(self, tmp_path):
        invoke("train", *QUICK, "--output", tmp_path)
        result = invoke("train", *QUICK[:2], "--steps", "24", *QUICK[4:], "--output", tmp_path, "--resume")
        assert result.exit_code == 0, result.output
        assert "goes on from generation 12 of 24, and had 12 planned" in " ".join(result.output.split())
        assert "the learning rate is 0.01 now" in " ".join(result.output.split())  # half of a cosine from 0.02
        es = fpes.ES.load(tmp_path / "seed-0" / "checkpoint.npz")
        assert (es.generation, es.run.plan[-1]) == (24, (12, 24))
        result = invoke("train", *QUICK, "--output", tmp_path, "--resume")
        assert result.exit_code == 2
        assert "--steps is 12, and seed 0 has 24 generations behind it" in result.stderr

    def test_a_finished_run_is_said_to_be_finished(self, tmp_path):
        invoke("train", *QUICK, "--output", tmp_path)
        result = invoke("train", *QUICK[:2], *QUICK[4:], "--output", tmp_path, "--resume")
        assert result.exit_code == 0, result.output
        assert "Seed 0 is finished: generation 12 of 12" in " ".join(result.output.split())
        assert 'trained: flush "boundary"' in result.output

    @pytest.mark.parametrize("output", [["--output", "results"], []])
    def test_nothing_to_resume(self, tmp_path, monkeypatch, output):
        monkeypatch.chdir(tmp_path)
        result = invoke("train", *QUICK, *output, "--resume")
        assert result.exit_code == 2
        assert "there is nothing to resume in" in result.stderr
        assert list(tmp_path.iterdir()) == []

    def test_seeds_that_would_be_missing_from_the_results(self, tmp_path):
        invoke("train", "--seeds", "2", *QUICK[2:], "--output", tmp_path)
        result = invoke("train", *QUICK, "--output", tmp_path, "--resume")
        assert result.exit_code == 2
        assert "resume all of them, with --seed 0 --seeds 2" in result.stderr

    def test_a_damaged_checkpoint_is_named(self, tmp_path):
        (tmp_path / "seed-0").mkdir()
        (tmp_path / "seed-0" / "checkpoint.npz").write_bytes(b"PK half a file")
        result = invoke("train", *QUICK, "--output", tmp_path, "--resume")
        assert result.exit_code == 2
        assert "is damaged, or no checkpoint of fpes" in result.stderr


def everything(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestWhatIsThere:
    """A folder with a run: nothing that somebody trained for is lost by a command that didn't say so."""

    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / "results"
        invoke("train", *QUICK, "--output", folder)
        return folder

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ([], "has a run already: result.json, theta.npz, curves.png, seed-0/log.csv, seed-0/checkpoint.npz of gen"),
            (["--population", "3"], "3 is odd"),
            (["--batch", "5000"], "batch is 5000, expected 1 to 1078"),
            (["--overwrite", "--population", "3"], "3 is odd"),
            (["--overwrite", "--batch", "5000"], "batch is 5000, expected 1 to 1078"),
            (["--overwrite", "--resume"], "expected one of them"),
            (["--overwrite", "--tensorboard"], "pip install tensorboardX"),
            (["--overwrite", "--preset", "mnist-node", "--population", "184", "--data-dir", "/nowhere"], "/nowhere"),
        ],
    )
    def test_a_command_that_fails_changes_nothing(self, folder, monkeypatch, options, words):
        for module in ("tensorboardX", "torch.utils.tensorboard"):
            monkeypatch.setitem(sys.modules, module, None)
        before = everything(folder)
        result = invoke("train", *QUICK, "--output", folder, *options)
        assert result.exit_code == 2
        assert words in result.stderr
        assert everything(folder) == before

    def test_overwriting_is_asked_for(self, folder):
        (folder / "notes.txt").write_text("mine")
        (folder / "seed-7").mkdir()
        (folder / "seed-7" / "checkpoint.npz").write_bytes((folder / "seed-0" / "checkpoint.npz").read_bytes())
        result = invoke("train", *QUICK, "--lr", "0.01", "--output", folder, "--overwrite")
        assert result.exit_code == 0, result.output
        assert fpes.ES.load(folder / "seed-0" / "checkpoint.npz").learning_rate == fpes.Cosine(0.01)
        assert not (folder / "seed-7" / "checkpoint.npz").exists()
        assert (folder / "notes.txt").read_text() == "mine"

    def test_without_an_output_the_next_folder_is_taken_and_the_last_one_resumed(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("digits", "digits-2", "digits-3"):
            result = invoke("train", *QUICK, "--no-plot")
            assert result.exit_code == 0, result.output
            assert f"results in runs/{name}/" in " ".join(result.output.split())
            assert ("has a run already" in result.output) == (name != "digits")
        result = invoke("train", *QUICK, "--no-plot", "--steps", "15", "--resume")
        assert result.exit_code == 0, result.output
        generations = [
            fpes.ES.load(tmp_path / "runs" / name / "seed-0" / "checkpoint.npz").generation
            for name in ("digits", "digits-2", "digits-3")
        ]
        assert generations == [12, 12, 15]

    def test_a_folder_has_one_owner(self, folder, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        before = everything(folder)
        with files.owned(folder):
            for options in ([], ["--resume"], ["--overwrite"]):
                result = invoke("train", *QUICK, "--output", folder, *options)
                assert result.exit_code == 2
                assert f"results is in use by process {os.getpid()}" in result.stderr
        assert everything(folder) == before
        with files.owned(writable_folder(Path("runs/digits"))):
            result = invoke("train", *QUICK, "--no-plot")
        assert "results in runs/digits-2/" in " ".join(result.output.split())

    def test_a_run_that_has_done_nothing_is_in_nobodys_way(self, folder):
        es = fpes.ES.load(folder / "seed-0" / "checkpoint.npz")
        for path in folder.rglob("*"):
            if path.is_file():
                path.unlink()
        fpes.ES(es.net, es.net.init(3), size=4, sigma=0.1).save(folder / "seed-0" / "checkpoint.npz")
        result = invoke("train", *QUICK, "--output", folder)
        assert result.exit_code == 0, result.output


class TestFullDisk:
    def fill(self, monkeypatch, es_generation, names):
        """From a generation on, files of these names can't be synced."""
        accept, fsync, full = fpes.ES.accept, os.fsync, []

        def advanced(self, *arguments):
            accept(self, *arguments)
            if self.generation == es_generation:
                full.append(True)

        def synced(descriptor):
            if full and any(name in os.readlink(f"/proc/self/fd/{descriptor}") for name in names):
                raise OSError(28, "No space left on device")
            fsync(descriptor)

        monkeypatch.setattr(fpes.ES, "accept", advanced)
        monkeypatch.setattr(os, "fsync", synced)

    @pytest.mark.parametrize("name", ["log.csv", "checkpoint.npz", "result.json", "theta.npz", "curves.png"])
    def test_the_run_ends_with_its_table_and_a_status(self, tmp_path, monkeypatch, name):
        self.fill(monkeypatch, 3, [name])
        result = invoke("train", *QUICK, "--output", tmp_path)
        assert result.exit_code == 1, result.output
        assert 'trained: flush "boundary"' in result.output
        assert f"{name}: No space left on device" in " ".join(result.stderr.split())
        found = {path.name for path in tmp_path.rglob("*") if path.is_file()}
        others = {"log.csv", "checkpoint.npz", "result.json", "theta.npz", "curves.png"} - {name}
        assert others <= found
        assert list(tmp_path.rglob(".*")) == []

    def test_room_that_is_made_is_used(self, tmp_path, monkeypatch):
        monkeypatch.setattr(train, "_RETRY_SECONDS", 0.0)
        monkeypatch.setattr(curves, "RECORDING", 1e9)  # a record a step
        fsync = os.fsync
        self.fill(monkeypatch, 3, ["log.csv"])
        accept = fpes.ES.accept

        def make_room(self, *arguments):
            accept(self, *arguments)
            if self.generation == 6:
                monkeypatch.setattr(os, "fsync", fsync)

        monkeypatch.setattr(fpes.ES, "accept", make_room)
        result = invoke("train", *QUICK, "--output", tmp_path)
        assert result.exit_code == 0, result.output
        assert "log.csv: No space left on device; training goes on" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--output", ""],
        ["train", "--data-dir", ""],
        ["demo", "--output", ""],
        ["compare", ""],
        ["export", "run.npz", "--to", "npz", "--output", ""],
        ["compare-builds", "--output", ""],
        ["bench", "--json", ""],
    ],
    ids=" ".join,
)
def test_an_empty_path_is_not_the_current_folder(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "it is empty, expected a path" in result.stderr
    assert list(tmp_path.iterdir()) == []


class TestInterrupts:
    """As they come in the first second: the status says so, and the table has what is finished."""

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
    @pytest.mark.parametrize(("seed", "where"), [(0, "proposed"), (0, "accept"), (1, "accept")])
    def test_before_anything_is_done(self, tmp_path, monkeypatch, number, status, seed, where):
        usual = getattr(fpes.ES, where)

        def interrupted(self, *arguments):
            if self.seed == seed:
                os.kill(os.getpid(), number)
            return usual(self, *arguments)

        monkeypatch.setattr(fpes.ES, where, interrupted)
        limit = ["--max-minutes", "10"] if where == "proposed" else []
        result = invoke("train", *QUICK[2:], "--seeds", "2", *limit, "--output", tmp_path)
        assert result.exit_code == status, result.output
        output = " ".join(result.output.split())
        if seed:
            assert 'trained: flush "boundary"' in output
            assert "Seed 1 has not begun. The same command with --resume goes on." in output
            assert json.loads((tmp_path / "result.json").read_text())["seeds"][0]["finished"] is True
        else:
            assert "there is nothing to keep" in output
            monkeypatch.setattr(fpes.ES, where, usual)
            assert invoke("train", *QUICK, "--output", tmp_path).exit_code == 0

    def test_while_controls_are_computed(self, tmp_path, monkeypatch):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(train, "train_by_backprop", interrupted)
        result = invoke("train", *QUICK, "--output", tmp_path)
        assert result.exit_code == 130, result.output
        assert 'trained: flush "boundary"' in result.output
        (seed,) = json.loads((tmp_path / "result.json").read_text())["seeds"]
        assert (seed["finished"], seed["backprop"], seed["controls"]) == (True, None, [])


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


class TestPlan:
    """A run is planned by its steps; a limit of time is one that somebody asked for, and ends it for good."""

    def test_a_run_that_its_limit_ended_is_finished_and_says_so(self, tmp_path):
        result = invoke("train", *QUICK[:2], "--quiet", "--no-plot", "--max-minutes", "0.02", "--output", tmp_path)
        assert result.exit_code == 0, result.output
        (seed,) = json.loads((tmp_path / "result.json").read_text())["seeds"]
        assert seed["finished"] is True
        assert 1 <= seed["generations"] == seed["steps"] < PRESETS["digits"].steps
        words = " ".join(result.output.split())
        assert "not finished" not in words
        assert f"Seed 0 is finished, with {seed['steps']} generations of at most 400, for the limit was 0.02" in words

    @pytest.mark.parametrize(("steps", "below"), [("3", True), ("80", False)])
    def test_a_network_below_backprop_is_named(self, tmp_path, steps, below):
        options = ["--seeds", "1", "--steps", steps, "--population", "128", "--batch", "256", "--quiet", "--no-plot"]
        result = invoke("train", *options, "--output", tmp_path)
        (seed,) = json.loads((tmp_path / "result.json").read_text())["seeds"]
        assert (seed["trained"]["test"] < seed["backprop"]["test"]) == below
        words = " ".join(result.output.split())
        assert ("is below backprop on the test part" in words) == below
        assert (f"{steps} generations were too few" in words) == below

    def test_the_table_fits_a_terminal(self, tmp_path, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        result = invoke("train", *QUICK, "--output", tmp_path, "--no-plot")
        assert result.output.splitlines()[0] == "digits: deep linear network 16-64-64-10, no activation function"


class TestInterruptsAnywhere:
    """Ctrl-C and SIGTERM, wherever they come."""

    @pytest.mark.parametrize("where", ["load", "train_by_backprop", "evaluate_controls"])
    @pytest.mark.parametrize(("end", "status"), [(KeyboardInterrupt(), 130), (Terminated(143), 143)])
    def test_what_is_finished_is_reported(self, tmp_path, monkeypatch, where, end, status):
        usual, calls = getattr(train, where), []

        def interrupted(*given, **named):
            calls.append(1)
            if len(calls) == 2:
                raise end
            return usual(*given, **named)

        monkeypatch.setattr(train, where, interrupted)
        result = invoke("train", *QUICK[2:], "--seeds", "3", "--output", tmp_path)
        assert result.exit_code == status, result.output
        assert "backprop: linear" in result.output
        found = json.loads((tmp_path / "result.json").read_text())["seeds"]
        assert (found[0]["finished"], len(found[0]["controls"])) == (True, 4)
        if where != "load":
            assert found[1]["backprop"] is None
            assert "Seed 1 is trained, and not compared with backprop" in " ".join(result.output.split())
        assert not (tmp_path / "curves.png").exists()

    def test_before_anything_is_finished(self, tmp_path, monkeypatch):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(train, "load", interrupted)
        result = invoke("train", *QUICK, "--output", tmp_path)
        assert (result.exit_code, result.stderr, result.stdout) == (130, "fpes: interrupted\n", "")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["demo", "compare", "info"])
    def test_other_commands(self, tmp_path, monkeypatch, name):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(getattr(commands, name), "run", interrupted)
        result = invoke(name, *([tmp_path / "x.npz"] if name == "compare" else []))
        assert result.exit_code == 130
        assert result.stderr == "fpes: interrupted\n"

    @pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
    def test_while_packages_are_loaded(self, name, status):
        """Nothing has begun, and nothing is said."""
        script = (
            "import os, signal, sys, time\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "class Loading:\n"
            "    def find_spec(self, name, *_):\n"
            f"        if name == 'fpes': os.kill(os.getpid(), signal.{name}), time.sleep(10)\n"
            "sys.meta_path.insert(0, Loading())\n"
            "import _fpes_command\n"
            "_fpes_command.main()"
        )
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
        assert (run.returncode, run.stdout, run.stderr) == (status, b"", b"")

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    @pytest.mark.parametrize("arguments", [["train", "--seeds", "1"], ["demo"], ["bench", "--only", "gemm"]])
    def test_a_process_ends_with_its_status(self, tmp_path, arguments, number, status):
        """While it works, which it is known to do when it has used a second of processor time."""
        output = [] if arguments[0] == "bench" else ["--quiet", "--output", str(tmp_path)]
        run = program(*arguments, *output)
        wait_until_it_works(run)
        run.send_signal(number)
        text = run.communicate(timeout=60)[0]
        assert run.returncode == status, text
        assert "Traceback" not in text


# Without what pytest-xdist tells its workers: pytest-benchmark, which `fpes bench` runs by, would measure nothing.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


def program(*arguments, **named):
    """The command line as a process of its own, which Ctrl-C reaches whoever started the tests."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from fpes.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        **{"env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **named},
    )


def wait_until_it_works(run, seconds=2.5):
    """Until a process has used so much processor time, more than importing takes, and less than its work."""
    while run.poll() is None:
        fields = Path(f"/proc/{run.pid}/stat").read_text().rpartition(")")[2].split()
        if (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") > seconds:
            return
        time.sleep(0.01)


class TestTerminals:
    """Whatever stands at the other end, and whatever the environment says."""

    @pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"TERM": "dumb"}])
    def test_plain_ones_get_everything(self, tmp_path, environment):
        folder = tmp_path / "Übung"
        environment = {**os.environ, "COLUMNS": "44", **environment}
        run = program("train", *QUICK[:-1], "--output", str(folder), env=environment)
        text = run.communicate(timeout=120)[0]
        assert run.returncode == 0, text
        assert "backprop" in text
        assert (folder / "curves.png").exists()

    def test_a_reader_that_has_seen_enough_hears_nothing_more(self):
        for arguments in (["info"], ["--help"], ["train", "--help"]):
            reading, writing = os.pipe()
            os.close(reading)
            run = program(*arguments, stdout=writing, stderr=subprocess.PIPE)
            os.close(writing)
            errors = run.communicate(timeout=60)[1]
            assert (run.returncode, errors) == (1, ""), arguments

    @pytest.mark.parametrize("arguments", [["info"], ["--help"]])
    @pytest.mark.parametrize("unbuffered", ["", "1"])
    def test_a_full_disk(self, arguments, unbuffered):
        environment = ENVIRONMENT | {"PYTHONUNBUFFERED": unbuffered}
        with Path("/dev/full").open("w") as full:
            run = program(*arguments, stdout=full, stderr=subprocess.PIPE, env=environment)
            errors = run.communicate(timeout=60)[1]
        assert (run.returncode, errors) == (2, "fpes: [Errno 28] No space left on device\n")

    def test_no_standard_output(self):
        run = subprocess.run(f"'{sys.executable}' -m fpes info >&-", shell=True, capture_output=True, check=False)
        assert (run.returncode, run.stderr) == (0, b"")

    @pytest.mark.parametrize("backend", FOREIGN_BACKENDS)
    def test_a_foreign_plotting_backend(self, tmp_path, backend):
        """Every command that draws does."""
        environment = ENVIRONMENT | {"MPLBACKEND": backend}
        picture = tmp_path / "roof.png"
        for arguments, drawn in (
            (["train", *QUICK, "--output", str(tmp_path)], tmp_path / "curves.png"),
            (["compare", str(tmp_path / "seed-0" / "checkpoint.npz")], tmp_path / "seed-0" / "controls.png"),
            (["demo", "--seconds", "0.1", "--output", str(tmp_path)], tmp_path / "spirals.png"),
            (["bench", "--from", str(STORED), "--roofline", str(picture)], picture),
        ):
            run = program(*arguments, env=environment)
            text = run.communicate(timeout=120)[0]
            assert run.returncode == 0, text
            assert drawn.read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize("backend", FOREIGN_BACKENDS)
    def test_a_page_of_pictures_under_a_foreign_plotting_backend(self, tmp_path, backend):
        only = ["--only", "bits", "--kernel", "multiply", "--quick", "--device", "cpu", "--output", str(tmp_path)]
        run = program("compare-builds", *only, env=ENVIRONMENT | {"MPLBACKEND": backend})
        text = run.communicate(timeout=120)[0]
        assert run.returncode == 0, text
        assert "<img" in (tmp_path / "report.html").read_text()

    @pytest.mark.parametrize("backend", FOREIGN_BACKENDS)
    @pytest.mark.parametrize("module", ["fpes.themes", "fpes.study.page", "fpes.plots", "fpes.cli.commands"])
    def test_modules_are_imported_under_a_foreign_plotting_backend(self, backend, module):
        """And what the user says stays said, for others."""
        code = f"import os, {module}; print(os.environ['MPLBACKEND'])"
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], env=ENVIRONMENT | {"MPLBACKEND": backend},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (run.returncode, run.stdout, run.stderr) == (0, f"{backend}\n", "")

    def test_a_known_plotting_backend_is_the_one_of_the_users_own_pictures(self):
        code = "import fpes.themes, matplotlib.pyplot as plt; print(plt.get_backend())"
        run = subprocess.run(
            [sys.executable, "-c", code], env=ENVIRONMENT | {"MPLBACKEND": "svg"}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert (run.returncode, run.stdout) == (0, "svg\n")

    def test_matplotlib_is_imported_for_pictures_only(self):
        code = "import sys, fpes.cli.commands; sys.exit('matplotlib' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    def test_a_missing_matplotlib_is_known_before_training(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.setattr(plots.importlib.util, "find_spec", lambda _: None)
        monkeypatch.setattr(fpes.ES, "fit", lambda *_, **__: pytest.fail("trained before looking"))
        result = invoke("train", *QUICK, "--output", tmp_path)
        assert result.exit_code == 2
        assert "pip install matplotlib" in result.stderr
        assert not list(tmp_path.iterdir())


FLUSHES = ("never", "boundary", "always")


def stored(**machine):
    """Results without a benchmark, of the machine of STORED but for what is said."""
    return {"machine": json.loads(STORED.read_text())["machine"] | machine, "benchmarks": []}


class TestBench:
    def test_names(self, tmp_path):
        run = program("bench", "--list", cwd=tmp_path)
        text = run.communicate(timeout=120)[0]
        assert run.returncode == 0, text
        assert list(tmp_path.iterdir()) == []
        assert "test_fpes[boundary-1024x1024x1024]" in text.splitlines()
        assert "never" not in text

    def test_an_interrupt_in_the_first_round(self, tmp_path):
        """A benchmark without times has no row, and nobody looks for its least one."""
        mine = tmp_path / "test_mine.py"
        mine.write_text(
            "def test_mine(measure):\n"
            "    def call():\n"
            "        raise KeyboardInterrupt\n"
            "    measure('mine', 'fpes', call, flops=1.0)\n"
        )
        run = program("bench", "--path", str(mine))
        text = run.communicate(timeout=120)[0]
        assert run.returncode == 130, text
        assert "empty sequence" not in text

    def test_benchmarks_of_ones_own(self, tmp_path):
        mine = tmp_path / "test_mine.py"
        mine.write_text(
            "import fpes, numpy as np\n"
            "def test_mine(measure, flush):\n"
            "    a = np.ones((64, 64), np.float32)\n"
            "    call = lambda: fpes.multiply(a, 2.0, flush=flush)\n"
            "    measure('mine', 'fpes', call, flops=4096.0, moved_bytes=2.0 * a.nbytes, flush=flush)\n"
        )
        files = [tmp_path / name for name in ("mine.json", "mine.csv", "mine.png")]
        stored = [f"--{option}={file}" for option, file in zip(("json", "csv", "roofline"), files, strict=True)]
        run = program("bench", "--path", str(mine), "--flush", "all", *stored)
        text = run.communicate(timeout=120)[0]
        assert run.returncode == 0, text
        assert "warning" not in text
        results = bench_results.read(files[0])
        assert [row.info["flush"] for row in results.rows] == ["never", "boundary", "always"]
        assert all(row.info["cold_seconds"] > 0 and row.info["median"] > 0 for row in results.rows)
        header, *lines = files[1].read_text().splitlines()
        assert header.startswith("group,variant,flush,median,q1,q3")
        assert [line.split(",")[:3] for line in lines] == [["mine", "fpes", flush] for flush in FLUSHES]
        assert files[2].read_bytes().startswith(b"\x89PNG")
        shown = program("bench", "--from", str(files[0]))
        table = shown.communicate(timeout=120)[0]
        assert shown.returncode == 0, table
        assert "mine" in table
        assert table in text  # which the run itself printed
        run = program("bench", "--path", str(mine), "--compare", str(files[0]))
        text = run.communicate(timeout=120)[0]
        assert run.returncode == 0, text
        assert "mine: fpes, boundary" in text

    def test_results_of_another_machine(self, tmp_path, monkeypatch):
        monkeypatch.setattr(pytest, "main", lambda *_, **__: pytest.fail("measured before looking"))
        file = tmp_path / "results.json"
        file.write_text(json.dumps(stored(processor="Z80")))
        result = invoke("bench", "--compare", file)
        assert result.exit_code == 2
        assert "is from another machine: processor 'Z80' and not" in result.stderr
        result = invoke("bench", "--from", STORED, "--compare", file)
        assert result.exit_code == 2
        assert "is from another machine: processor 'Z80' and not 'AMD EPYC" in result.stderr
        result = invoke("bench", "--from", STORED, "--compare", file, "--other-machine")
        assert result.exit_code == 0, result.output
        assert "time, ratio" in result.stdout

    @pytest.mark.parametrize("option", ["--from", "--compare"])
    @pytest.mark.parametrize("text", ["[]", "no JSON", '{"machine": {}, "benchmarks": []}'])
    def test_what_is_no_file_of_results(self, tmp_path, option, text):
        file = tmp_path / "results.json"
        file.write_text(text)
        result = invoke("bench", option, file)
        assert result.exit_code == 2
        assert "holds no results of `fpes bench --json`" in result.stderr

    def test_stored_results_are_shown_and_nothing_is_measured(self, tmp_path):
        """By a program to which pytest and its plugins are missing."""
        table, picture = tmp_path / "x.csv", tmp_path / "x.png"
        hidden = "import sys; sys.modules |= dict.fromkeys(['pytest', 'pytest_benchmark', 'cpuinfo']); "
        run = subprocess.run(
            [sys.executable, "-c", f"{hidden}from fpes.cli import main; main()", "bench", "--from", str(STORED),
             "--csv", str(table), "--roofline", str(picture), "--compare", str(STORED)],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (run.returncode, run.stderr) == (0, "")
        rows = json.loads(STORED.read_text())["benchmarks"]
        assert "AMD EPYC" in run.stdout
        for row in rows:
            assert f"│ {row['extra_info']['variant']} " in run.stdout
            assert f" {row['extra_info']['gflops']:.1f} " in run.stdout
        with table.open(newline="") as stream:
            assert [float(line["median"]) for line in csv.DictReader(stream)] == [
                row["stats"]["median"] for row in rows
            ]
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert "│       1.000 │" in run.stdout  # beside themselves

    @pytest.mark.parametrize(
        "options",
        [["--path", "."], ["--long"], ["--flush", "boundary"], ["--only", "gemm"], ["--list"], ["--json", "x.json"]],
    )
    def test_stored_results_are_not_measured_differently(self, tmp_path, monkeypatch, options):
        monkeypatch.chdir(tmp_path)
        result = invoke("bench", "--from", STORED, "--csv", "x.csv", *options)
        assert result.exit_code == 2
        assert result.stderr.startswith("fpes: --from shows all of ")
        assert result.stderr.endswith(f" and measures nothing: expected it without {options[0]}\n")
        assert not list(tmp_path.iterdir())

    def test_a_file_without_benchmarks(self, tmp_path):
        file = tmp_path / "results.json"
        file.write_text(json.dumps(stored()))
        result = invoke("bench", "--from", file)
        assert result.exit_code == 2
        assert "holds no benchmark, so there is nothing to show" in result.stderr

    def test_a_case_is_measured_and_stored_with_what_was_compared(self, tmp_path):
        file = tmp_path / "results.json"
        run = program("bench", "--only", "gradient and low_rank_1 and ranks", "--json", str(file), cwd=tmp_path)
        text = run.communicate(timeout=300)[0]
        assert run.returncode == 0, text
        assert "CPU, %" in text
        stored = json.loads(file.read_text())
        packages = stored["machine"]["packages"]
        assert (packages["fpes"], packages["numpy"]) == (fpes.__version__, np.__version__)
        assert stored["machine"]["bandwidth"] > 1e8
        assert "node" not in stored["machine_info"]
        share = stored["benchmarks"][0]["extra_info"]["processor_share"]
        assert share is None or 0.0 < share <= 1.0
        assert ("The machine was busy" in text) == (share is not None and share < 0.9)
        assert list(tmp_path.iterdir()) == [file]

    def test_a_word_that_matches_nothing(self):
        run = program("bench", "--only", "nothing")
        text = run.communicate(timeout=120)[0]
        assert run.returncode == 2
        assert "no benchmark has a name that 'nothing' matches" in text

    def test_results_that_can_not_be_written_are_known_first(self, tmp_path, monkeypatch):
        monkeypatch.setattr(pytest, "main", lambda *_, **__: pytest.fail("measured before looking"))
        result = invoke("bench", "--json", tmp_path / "nowhere" / "x.json")
        assert result.exit_code == 2
        assert "can't write" in result.stderr
        assert not list(tmp_path.iterdir())


def test_a_dead_run_ends_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(
        fpes.ES, "proposed", lambda *_: (_ for _ in ()).throw(fpes.DivergedError("fitness is NaN: lower it"))
    )
    result = invoke("train", *QUICK, "--output", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.strip() == "fpes: fitness is NaN: lower it"
    assert fpes.ES.load(tmp_path / "seed-0" / "checkpoint.npz").generation == 0


def test_demo_draws_a_picture(tmp_path):
    result = invoke("demo", "--seconds", "0.3", "--quiet", "--output", tmp_path)
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "with ftz on" in words
    assert "The limit of 0.3 s left no time for all 300 generations." in words
    assert (tmp_path / "spirals.png").read_bytes().startswith(b"\x89PNG")


def test_info_says_what_is_absent_and_why():
    result = invoke("info")
    assert result.exit_code == 0
    assert fpes.get_isa() in result.output
    assert "CUDA ftz" in result.output
    if importlib.util.find_spec("cupy") is None:
        assert "pip install cupy-cuda13x" in " ".join(result.output.split())
    cuda = json.loads(invoke("info", "--json").stdout)["cuda"]
    assert cuda["built"] == bool(cuda["builds"])
    assert cuda["reason"] or sorted(cuda["builds"]) == ["ftz", "ieee"]


@pytest.mark.parametrize("arguments", [("--threads", "3", "info"), ("info", "--threads", "3")])
def test_threads_option_is_used(arguments):
    assert json.loads(invoke(*arguments, "--json").stdout)["cpu"]["threads"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--population", "33"], "33 is odd: members come in antithetic pairs"),
        (["train", "--lr", "nan"], "nan is not a finite number"),
        (["train", "--sigma", "inf"], "inf is not a finite number"),
        (["demo", "--seconds", "nan"], "nan is not a finite number"),
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


def test_a_disk_that_is_full_from_the_start_is_known_before_training(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    result = invoke("train", *QUICK, "--output", tmp_path)
    assert result.exit_code == 2
    assert "checkpoint.npz: No space left on device" in result.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["seed-0"]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fpes.cli.commands", None)
    monkeypatch.delitem(sys.modules, "fpes.cli.commands")
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit, match="needs click: pip install click matplotlib"):
        cli.main()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_messages_that_cannot_be_written_end_no_run(tmp_path):
    """Progress on a full disk ended the run after the first seed, without its results."""
    with Path("/dev/full").open("w") as full:
        run = program(
            "train", "--steps", "3", "--seeds", "2", "--population", "16", "--no-plot", "--output", str(tmp_path),
            stdout=subprocess.DEVNULL, stderr=full,
        )  # fmt: skip
        assert run.wait() == 0
    assert len(json.loads((tmp_path / "result.json").read_text())["seeds"]) == 2


@pytest.mark.parametrize(
    ("name", "value"), [("FPES_THREADS", "0"), ("FPES_THREADS", "abc"), ("FPES_THREADS", "10000"), ("FPES_ISA", "x")]
)
def test_a_wrong_environment_variable_gets_one_line(name, value):
    """It was a traceback of the import."""
    run = subprocess.run(
        [sys.executable, "-m", "fpes", "info"],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {name: value},
    )
    assert run.returncode == 2
    assert run.stderr.startswith(f"fpes: environment variable {name} is '{value}', expected")
    assert len(run.stderr.splitlines()) == 1
