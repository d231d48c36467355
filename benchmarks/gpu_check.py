"""Everything that a GPU can tell about fpes, in five steps of at most ten minutes: build, test, bench, profile, train.

    make gpu-check OUT=folder            all five
    make gpu-check-build OUT=folder      and so on: one at a time

Nothing is fetched and nothing is installed: the package is built with the Python packages that are there into
build/gpu-check, and used from there. Each step writes its part of OUT/gpu-check.json, from which OUT/gpu-check.md is
made: what a step found stays there whatever becomes of the next. Logs are in OUT/logs.tar.gz, ncu's report beside it.
Where the folder build doesn't last from command to command, name steps together: gpu_check.py build test --out OUT.

Needs Python 3.11 or newer with cupy, numpy, pybind11, scikit-build-core, cmake, ninja, pytest, pytest-benchmark,
pytest-timeout; PyTorch, JAX, compute-sanitizer and ncu are used where they are. Exit status 0: everything passed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = ROOT / "build" / "gpu-check"
LOGS = ROOT / "build" / "gpu-check-logs"
TEST_SECONDS = 300  # of the test step's GPU tests
SANITIZER_SECONDS = 100  # of each tool
BENCH_SECONDS = 400
SANITIZERS = ("memcheck", "synccheck", "initcheck", "racecheck")
STALL, STALL_END = "smsp__average_warps_issue_stalled_", "_per_issue_active.ratio"
PROFILE_SECONDS = 120
TRAIN_SECONDS, FULL_RANK_SECONDS = 580, 240
# What a profile is of: the first launch of each.
PROFILED = "gemm_kernel|full_rank_kernel|shared_weights_kernel|terms_kernel|integer_product_kernel"


class StepError(Exception):
    """A step ended badly; the message is what the user needs."""


def main() -> int:
    """Run the steps that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="+", choices=list(STEPS))
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    out = options.out.resolve()
    for step in options.steps:
        began = time.monotonic()
        say(f"--- {step}")
        try:
            found = STEPS[step](out)
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
    """In which Python imports the package that was built here, and not the sources beside it.

    Kernels are compiled with -lineinfo, so that profilers and sanitizers name lines. The code is the same, the modules
    are twice as large.
    """
    path = os.pathsep.join(filter(None, [str(INSTALLED), str(ROOT / "tests" / "gpu"), os.environ.get("PYTHONPATH")]))
    flags = " ".join(filter(None, [os.environ.get("CUDAFLAGS"), "-lineinfo"]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "CUDAFLAGS": flags}


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
    check_versions()
    shutil.rmtree(INSTALLED, ignore_errors=True)
    log = LOGS / "build.log"
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


def check_versions() -> None:
    """What the build and the tests can't do without, before any time is spent."""
    least = {"cupy-cuda13x": 13, "numpy": 1, "pybind11": 2, "scikit-build-core": 1, "pytest": 8}
    found = {}
    for name in least:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    say(", ".join(f"{name} {version}" for name, version in found.items()))
    bad = [name for name in least if found[name] == "missing" or int(found[name].partition(".")[0]) < least[name]]
    if bad:
        wanted = ", ".join(f"{name} {found[name]}, expected {least[name]} or newer" for name in bad)
        raise StepError(f"{wanted}: for {sys.executable} (a folder of packages can be named by PYTHONPATH)")


def machine(
    wanted: str = "name,driver_version,clocks.max.sm,clocks.max.mem,power.limit,memory.total",
) -> dict[str, str]:
    """What nvidia-smi says of the GPU and its clocks, where it is."""
    if shutil.which("nvidia-smi") is None:
        return {}
    answer = subprocess.run(
        ["nvidia-smi", f"--query-gpu={wanted}", "--format=csv,noheader"], check=False, capture_output=True, text=True
    )
    lines = answer.stdout.splitlines()
    return dict(zip(wanted.split(","), map(str.strip, lines[0].split(",")), strict=False)) if lines else {}


def test(_out: Path) -> dict[str, Any]:
    """The GPU tests, the flush rule among them, then the small ones under compute-sanitizer."""
    need_build()
    log, results = LOGS / "tests.log", LOGS / "tests.xml"
    # Warnings of other packages, whose versions nobody here chose, are no failures.
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "default", "tests/gpu", "--require-gpu"]
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
    found["sanitizer"] = {tool: sanitize(tool, pytest) for tool in SANITIZERS}
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


def sanitize(tool: str, pytest: list[str]) -> str:
    """One tool of compute-sanitizer on every kernel: "clean", "errors", or why it says nothing."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        return "compute-sanitizer is not installed"
    log = LOGS / f"sanitizer-{tool}.log"
    command = [sanitizer, "--tool", tool, "--error-exitcode", "77", *pytest, "-q", "-p", "no_pool", "-m", "sanitizer"]
    status = run(command, log, SANITIZER_SECONDS)
    verdict = {0: "clean", 77: "errors", 124: f"not finished after {SANITIZER_SECONDS} s"}.get(
        status, f"status {status}"
    )
    say(f"compute-sanitizer {tool}: {verdict}")
    return verdict


def bench(_out: Path) -> dict[str, Any]:
    """The benchmarks of gpu_bench.py, in a process of their own."""
    need_build()
    results, log = LOGS / "bench.json", LOGS / "bench.log"
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
    # Other bits than 0 and 1, idle, of the reasons mean that something held the clock down.
    clocks = machine("clocks.sm,clocks.mem,temperature.gpu,power.draw,clocks_event_reasons.active")
    return {**json.loads(results.read_text()), "clocks": clocks}


def profile(out: Path) -> dict[str, Any]:
    """What bounds the main kernels, by Nsight Compute; nothing where it isn't installed."""
    need_build()
    ncu = shutil.which("ncu")
    if ncu is None:
        return {"skipped": "ncu is not installed"}
    report, log = out / "profile.ncu-rep", LOGS / "profile.log"
    script = [sys.executable, str(ROOT / "benchmarks" / "gpu_profile.py")]
    options = [
        "--set",
        "full",
        "--clock-control",
        "none",
        "-k",
        f"regex:{PROFILED}",
        "-c",
        "12",
        "-f",
        "-o",
        str(report),
    ]
    status = run([ncu, *options, *script], log, PROFILE_SECONDS)
    if status != 0 or not report.exists():
        raise StepError(f"ncu ended with status {status}; the end of {log}:\n{last_lines(log, 4)}")
    table = LOGS / "profile.csv"
    if run([ncu, "--import", str(report), "--page", "raw", "--csv"], table, PROFILE_SECONDS) != 0:
        raise StepError(f"ncu can't read its report: {last_lines(table, 4)}")
    return {"kernels": read_profile(table.read_text(errors="replace"))}


def read_profile(table: str) -> list[dict[str, Any]]:
    """The kernels of ncu's table: time, busy parts in percent, why warps waited (warps for an issued instruction)."""
    rows = list(csv.reader(line for line in table.splitlines() if line.startswith('"')))
    names, kernels = rows[0], []
    for row in rows[2:]:  # the second has units
        values = dict(zip(names, row, strict=True))
        stalls = {
            name.removeprefix(STALL).removesuffix(STALL_END): float(value.replace(",", ""))
            for name, value in values.items()
            if name.startswith(STALL) and name.endswith(STALL_END) and value
        }
        stalls.pop("selected", None)
        kernels.append(
            {
                "kernel": values["Kernel Name"],
                "milliseconds": float(values["gpu__time_duration.sum"].replace(",", "")),
                "issue": float(values["smsp__issue_active.avg.pct_of_peak_sustained_active"]),
                "fma": float(values["sm__inst_executed_pipe_fma.avg.pct_of_peak_sustained_active"]),
                "registers": values["launch__registers_per_thread"],
                "stalls": dict(sorted(stalls.items(), key=lambda item: -item[1])[:4]),
            }
        )
    return kernels


def train(_out: Path) -> dict[str, Any]:
    """Presets on the GPU to the CPU's bits, and the full network by full-rank ES (gpu_train.py)."""
    need_build()
    results, log = LOGS / "train.json", LOGS / "train.log"
    results.unlink(missing_ok=True)
    script = str(ROOT / "benchmarks" / "gpu_train.py")
    status = run([sys.executable, script, str(results), str(FULL_RANK_SECONDS)], log, TRAIN_SECONDS)
    if not results.exists():
        raise StepError(f"training ended with status {status}; the end of {log}:\n{last_lines(log, 4)}")
    found: dict[str, Any] = json.loads(results.read_text())
    different = [name for name, run in found["bits"].items() if run.get("different")]
    if different:
        return {**found, "failed": f"the GPU's parameters aren't the CPU's: {', '.join(different)}"}
    if status != 0:
        return {**found, "failed": f"training ended with status {status}; the end of {log}:\n{last_lines(log, 4)}"}
    return found


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
    archive = out / "logs.tar.gz"
    with tarfile.open(archive.with_suffix(".part"), "w:gz") as file:
        file.add(LOGS, "logs")
    archive.with_suffix(".part").replace(archive)


def markdown(everything: dict[str, Any]) -> str:
    """The results as a page."""
    lines = ["# fpes on a GPU", ""]
    for step in STEPS:
        found = everything.get(step)
        if found is None:
            lines += [f"Step `{step}` has not been run.", ""]
            continue
        lines += [f"## {step} ({found['seconds']:.0f} s)", ""]
        if "failed" in found:
            lines += ["**Failed:**", "", "```", found["failed"], "```", ""]
        lines += LINES[step](found)
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
        lines += [
            f"### {table['title']}",
            "",
            "| variant | ms | first call, ms | spread | TFLOP/s | % of peak | speed | of |",
        ]
        lines += ["|---|---|---|---|---|---|---|---|"]
        lines += [bench_row(row) for row in table["rows"]]
        lines += [f"\n{name}: {error.splitlines()[0]}" for name, error in table["errors"].items()]
        lines.append("")
    if found.get("clocks"):
        lines += [f"Clocks afterwards: {', '.join(f'{key} {value}' for key, value in found['clocks'].items())}.", ""]
    if found["left_out"]:
        lines += [f"Left out, for time: {'; '.join(found['left_out'])}.", ""]
    return lines


def bench_row(row: dict[str, Any]) -> str:
    relative = f"{row['relative_speed']:.2f} | {row['speed_relative_to']}" if "relative_speed" in row else " | "
    return (
        f"| {row['variant']} | {row['milliseconds']:.3f} | {row['first_milliseconds']:.1f} | {row['spread']:.1%} "
        f"| {row['tflops']:.1f} "
        f"| {row['fraction_of_peak']:.0%} | {relative} |"
    )


def profile_lines(found: dict[str, Any]) -> list[str]:
    if "kernels" not in found:
        return [found.get("skipped", ""), ""]
    lines = [
        "| kernel | ms | multiply-add units busy, % | instructions issued, % | registers | waits |",
        "|---|---|---|---|---|---|",
    ]
    for kernel in found["kernels"]:
        waits = ", ".join(f"{name} {value:.2f}" for name, value in kernel["stalls"].items())
        name = kernel["kernel"].partition("(")[0].rpartition("::")[2]
        lines.append(
            f"| {name} | {kernel['milliseconds']:.3f} | {kernel['fma']:.0f} | {kernel['issue']:.0f} "
            f"| {kernel['registers']} | {waits} |"
        )
    return [*lines, ""]


def train_lines(found: dict[str, Any]) -> list[str]:
    if "bits" not in found:
        return []
    lines = ["| preset | generations | parameters that differ | s a generation, GPU | CPU |", "|---|---|---|---|---|"]
    for name, run in found["bits"].items():
        if "not run" in run:
            lines.append(f"| {name} | not run: {run['not run']} | | | |")
            continue
        seconds = run["seconds"]
        lines.append(
            f"| {name} | {run['generations']} | {run['different']} of {run['parameters']} | {seconds['cuda']:.4f} "
            f"| {seconds['cpu']:.4f} |"
        )
    full_rank = found.get("full rank", {})
    said = ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in full_rank.items()
    )
    return [*lines, "", f"784-512-512-10 by full-rank ES: {said}.", ""]


STEPS = {"build": build, "test": test, "bench": bench, "profile": profile, "train": train}
LINES = {
    "build": build_lines, "test": test_lines, "bench": bench_lines, "profile": profile_lines, "train": train_lines,
}  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(main())
