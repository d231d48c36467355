"""Everything that a GPU can tell about fpes, in three steps of a few minutes: build, test, bench.

    make gpu-check OUT=folder            all three
    make gpu-check-build OUT=folder      and so on: one at a time

Nothing is fetched and nothing is installed: the package is built with the Python packages that are there into
build/gpu-check, and used from there. Each step writes its part of OUT/gpu-check.json, from which OUT/gpu-check.md is
made: what a step found stays there whatever becomes of the next.

Needs Python 3.11 or newer with cupy, numpy, pybind11, scikit-build-core, cmake, ninja, pytest, pytest-benchmark,
pytest-timeout; PyTorch, JAX and compute-sanitizer are used where they are. Exit status 0 means that everything passed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = ROOT / "build" / "gpu-check"
TEST_SECONDS = 300  # of the test step's GPU tests
SANITIZER_SECONDS = 100  # of each tool
BENCH_SECONDS = 400
# What compute-sanitizer runs: every kernel on small sizes. It makes a kernel some hundred times slower.
SANITIZED = "test_gpu_bits and (odd or everything or edges_of or noise) and binomial and boundary and not MNIST"


class StepError(Exception):
    """A step ended badly; the message is what the user needs."""


def main() -> int:
    """Run the steps that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="+", choices=["build", "test", "bench"])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    out = options.out.resolve()
    for step in options.steps:
        began = time.monotonic()
        say(f"--- {step}")
        try:
            found = {"build": build, "test": test, "bench": bench}[step](out)
        except StepError as error:
            say(f"gpu-check {step}: {error}")
            record(out, step, {"failed": str(error), "seconds": time.monotonic() - began})
            return 1
        record(out, step, {**found, "seconds": time.monotonic() - began})
        if "failed" in found:
            say(f"gpu-check {step}: {found['failed']}")
            return 1
    say(f"results: {out}/gpu-check.json and gpu-check.md")
    return 0


def say(words: str) -> None:
    """Progress, at once."""
    print(words, flush=True)


def environment() -> dict[str, str]:
    """In which Python imports the package that was built here, and not the sources beside it."""
    return {**os.environ, "PYTHONPATH": str(INSTALLED), "PYTHONSAFEPATH": "1"}


def run(command: list[str], log: Path, seconds: float) -> int:
    """Run a command in the repository with its output in a file; the exit status, or 124 after so many seconds."""
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the compilers or tests that it has started
            process.wait()
            return 124


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])


# --- steps ------------------------------------------------------------------------------------------------------------


def build(out: Path) -> dict[str, Any]:
    """Both CUDA builds, without fetching anything."""
    shutil.rmtree(INSTALLED, ignore_errors=True)
    log = out / "build.log"
    pip = [sys.executable, "-m", "pip", "install", "--verbose", "--no-build-isolation", "--no-deps", "--no-index"]
    settings = ["-Ccmake.define.FPES_CUDA=ON", f"-Cbuild-dir={ROOT / 'build' / 'gpu-check-cmake'}"]
    status = run([*pip, "--target", str(INSTALLED), *settings, "."], log, 560)
    if status != 0:
        raise StepError(f"the build failed with status {status}; the end of {log}:\n{last_lines(log)}")
    asked = subprocess.run(
        [sys.executable, "-c", "import fpes, json; print(json.dumps(fpes.build_config()))"],
        cwd=out, env=environment(), check=True, capture_output=True, text=True,
    )  # fmt: skip
    config = json.loads(asked.stdout)
    if not config["cuda"]["builds"]:
        raise StepError(
            f"Python imports another fpes than the one just built, without CUDA ({config['cuda']['reason']}): an "
            f"editable install goes first. Use a Python without one: {sys.executable} -m pip uninstall fpes"
        )
    say(f"built {', '.join(config['cuda']['builds'])} with nvcc {config['cuda']['compiler']}")
    return {"config": config, "python": platform.python_version(), "machine": machine()}


def machine() -> dict[str, str]:
    """What nvidia-smi says of the GPU and its clocks, where it is."""
    if shutil.which("nvidia-smi") is None:
        return {}
    wanted = "name,driver_version,clocks.max.sm,clocks.max.mem,power.limit,memory.total"
    answer = subprocess.run(
        ["nvidia-smi", f"--query-gpu={wanted}", "--format=csv,noheader"], check=False, capture_output=True, text=True
    )
    lines = answer.stdout.splitlines()
    return dict(zip(wanted.split(","), map(str.strip, lines[0].split(",")), strict=False)) if lines else {}


def test(out: Path) -> dict[str, Any]:
    """The GPU tests, the flush rule among them, then the small ones under compute-sanitizer."""
    need_build()
    log, results = out / "tests.log", out / "tests.xml"
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/gpu", "--require-gpu"]
    status = run([*pytest, "-q", "--maxfail=50", f"--junitxml={results}"], log, TEST_SECONDS)
    if status == 124:
        raise StepError(f"the tests took longer than {TEST_SECONDS} s; the end of {log}:\n{last_lines(log)}")
    if not results.exists():
        raise StepError(f"pytest ended with status {status}; the end of {log}:\n{last_lines(log)}")
    found = read_tests(results)
    say("{passed} passed, {failures} failed, {skipped} skipped".format(**found))
    if found["failures"]:
        reason = next(iter(found["reasons"]), "")
        return {**found, "failed": f"{found['failures']} GPU tests failed, the first with: {reason} (see {log})"}
    found["sanitizer"] = {tool: sanitize(tool, pytest, out) for tool in ("memcheck", "racecheck")}
    bad = [tool for tool, verdict in found["sanitizer"].items() if verdict == "errors"]
    return {**found, "failed": f"compute-sanitizer found errors: {', '.join(bad)}"} if bad else found


def read_tests(results: Path) -> dict[str, Any]:
    """Counts, the first reasons of failures, and the mismatches of the flush rule, from pytest's XML."""
    suite = next(ElementTree.parse(results).getroot().iter("testsuite"))
    count = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failures = count["failures"] + count["errors"]
    rules = []
    for case in suite.iter("testcase"):
        noted = {p.get("name"): p.get("value") for p in case.iter("property")}
        if "instruction" in noted:
            rules.append({**noted, "mismatches": int(noted["mismatches"]), "operands": int(noted["operands"])})
    reasons = [bad.get("message", "")[:300] for kind in ("failure", "error") for bad in suite.iter(kind)]
    passed = count["tests"] - failures - count["skipped"]
    return {
        "passed": passed, "failures": failures, "skipped": count["skipped"],
        "reasons": list(dict.fromkeys(reasons))[:10], "flush_rule": rules,
    }  # fmt: skip


def sanitize(tool: str, pytest: list[str], out: Path) -> str:
    """One tool of compute-sanitizer on the small sizes: "clean", "errors", or why it says nothing."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        return "compute-sanitizer is not installed"
    log = out / f"sanitizer-{tool}.log"
    command = [sanitizer, "--tool", tool, "--error-exitcode", "77", *pytest, "-q", "-k", SANITIZED]
    status = run(command, log, SANITIZER_SECONDS)
    verdict = {0: "clean", 77: "errors", 124: f"not finished after {SANITIZER_SECONDS} s"}.get(
        status, f"status {status}"
    )
    say(f"compute-sanitizer {tool}: {verdict}")
    return verdict


def bench(out: Path) -> dict[str, Any]:
    """The benchmarks of gpu_bench.py, in a process of their own."""
    need_build()
    results, log = out / "bench.json", out / "bench.log"
    results.unlink(missing_ok=True)
    code = (
        "import json, pathlib, sys; sys.path.insert(0, sys.argv[1]); import gpu_bench;"
        "found = gpu_bench.run(lambda words: print(words, flush=True), float(sys.argv[3]));"
        "pathlib.Path(sys.argv[2]).write_text(json.dumps(found))"
    )
    command = [sys.executable, "-c", code, str(ROOT / "benchmarks"), str(results), str(BENCH_SECONDS)]
    status = run(command, log, BENCH_SECONDS + 120)
    if status != 0 or not results.exists():
        raise StepError(f"the benchmarks ended with status {status}; the end of {log}:\n{last_lines(log, 4)}")
    return dict(json.loads(results.read_text()))


def need_build() -> None:
    """Later steps use what the first one made."""
    if not (INSTALLED / "fpes").is_dir():
        raise StepError("nothing is built yet: run the step build first (make gpu-check-build)")


# --- results ----------------------------------------------------------------------------------------------------------


def record(out: Path, step: str, found: dict[str, Any]) -> None:
    """Put a step's results into gpu-check.json, and write gpu-check.md anew."""
    file = out / "gpu-check.json"
    everything = json.loads(file.read_text()) if file.exists() else {}
    everything[step] = found
    for path, text in ((file, json.dumps(everything, indent=2) + "\n"), (out / "gpu-check.md", markdown(everything))):
        aside = path.with_suffix(".part")
        aside.write_text(text)
        aside.replace(path)


def markdown(everything: dict[str, Any]) -> str:
    """The results as a page."""
    lines = ["# fpes on a GPU", ""]
    for step in ("build", "test", "bench"):
        found = everything.get(step)
        if found is None:
            lines += [f"Step `{step}` has not been run.", ""]
            continue
        lines += [f"## {step} ({found['seconds']:.0f} s)", ""]
        if "failed" in found:
            lines += ["**Failed:**", "", "```", found["failed"], "```", ""]
        lines += {"build": build_lines, "test": test_lines, "bench": bench_lines}[step](found)
    return "\n".join(lines) + "\n"


def build_lines(found: dict[str, Any]) -> list[str]:
    if "config" not in found:
        return []
    cuda = found["config"]["cuda"]
    gpu = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    return [
        f"fpes {found['config']['version']}, Python {found['python']}, nvcc {cuda['compiler']}, builds "
        f"{', '.join(cuda['builds'])} for {', '.join(cuda['architectures'])}. GPU: {gpu or 'no nvidia-smi'}.", "",
    ]  # fmt: skip


def test_lines(found: dict[str, Any]) -> list[str]:
    if "passed" not in found:
        return []
    lines = [f"{found['passed']} passed, {found['failures']} failed, {found['skipped']} skipped.", ""]
    lines += [f"- {reason.splitlines()[0] if reason else 'no message'}" for reason in found["reasons"]]
    for tool, verdict in found.get("sanitizer", {}).items():
        lines.append(f"- compute-sanitizer {tool}: {verdict}")
    if found["flush_rule"]:
        lines += ["", "| instruction | operands | mismatches with exact arithmetic |", "|---|---|---|"]
        lines += [f"| `{r['instruction']}` | {r['operands']:,} | {r['mismatches']:,} |" for r in found["flush_rule"]]
    return [*lines, ""]


def bench_lines(found: dict[str, Any]) -> list[str]:
    if "tables" not in found:
        return []
    peak = f"{found['device']['name']}: fused multiply-adds without memory {found['peak_tflops']:.1f} TFLOP/s."
    lines = [peak, ""]
    for table in found["tables"]:
        lines += [f"### {table['title']}", "", "| variant | ms | spread | TFLOP/s | % of peak | speed | of |"]
        lines += ["|---|---|---|---|---|---|---|"]
        lines += [bench_row(row) for row in table["rows"]]
        lines += [f"\n{name}: {error.splitlines()[0]}" for name, error in table["errors"].items()]
        lines.append("")
    if found["left_out"]:
        lines += [f"Left out, for time: {'; '.join(found['left_out'])}.", ""]
    return lines


def bench_row(row: dict[str, Any]) -> str:
    relative = f"{row['relative_speed']:.2f} | {row['speed_relative_to']}" if "relative_speed" in row else " | "
    return (
        f"| {row['variant']} | {row['milliseconds']:.3f} | {row['spread']:.0%} | {row['tflops']:.1f} "
        f"| {row['fraction_of_peak']:.0%} | {relative} |"
    )


if __name__ == "__main__":
    raise SystemExit(main())
