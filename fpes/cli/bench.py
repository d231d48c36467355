"""`fpes bench`: the benchmarks of the repository, or of your own, run from wherever they are."""

from __future__ import annotations

import importlib
import io
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import fpes
from fpes import plots
from fpes.cli import bench_results
from fpes.cli.process import INTERRUPTED, TERMINATED
from fpes.files import written_whole

_INSTALLED = Path(fpes.__file__).parent / "benchmarks"
_IN_THE_REPOSITORY = Path(fpes.__file__).parent.parent / "benchmarks"


@dataclass(frozen=True)
class Options:
    """The options of the command, by name.

    Args:
        stored: the results of an earlier run, which are shown, and nothing is measured.
        path: a file or a folder of benchmarks; those of the repository if not given.
        long: more networks and families.
        flush: "never", "boundary", "always", or "all" of them; "boundary" if not given.
        only: those whose names match.
        names: show their names, and measure nothing.
        json_file, csv_file, roofline: where results go.
        compare: earlier results.
        other_machine: whether these may be another machine's.
    """

    stored: Path | None
    path: Path | None
    long: bool
    flush: str | None
    only: str | None
    names: bool
    json_file: Path | None
    csv_file: Path | None
    roofline: Path | None
    compare: Path | None
    other_machine: bool


def run(options: Options) -> int:
    """Run the benchmarks by pytest, list their names, or show stored results; return the exit status.

    Raises:
        ImportError: pytest, pytest-benchmark or, for a picture, matplotlib is missing.
        OSError: results can't be written where they should go, or earlier ones can't be read.
        ValueError: no benchmark has such a name; earlier results are something else, or another machine's; options
            don't go together.
    """
    results = None if options.stored is None else _stored(options, options.stored)
    if results is None:
        _require_pytest()
    if options.names:
        return _list(options)
    for file in (options.json_file, options.csv_file, options.roofline):
        if file is not None:
            _check_writable(file)
    if options.roofline is not None:
        plots.require()
    before = None if options.compare is None else bench_results.read(options.compare)
    if before is not None and options.compare is not None and not options.other_machine:
        machine = _this_machine() if results is None else results.machine
        bench_results.check_same_machine(before, machine, options.compare)
    if results is not None:
        _write(options, results)
        _print_tables(results)
        _print_changes(before, results)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "results.json" if options.json_file is None else options.json_file.resolve()
        status = _measure(options, stored, Path(folder))
        if status == 0 and stored.is_file():  # and no pipe or terminal, where they can't be read again
            results = bench_results.read(stored)
            _write(options, results)
            _print_changes(before, results)
    return status


def _stored(options: Options, path: Path) -> bench_results.Results:
    """The results that are shown, where nothing is asked for that would have to be measured."""
    about_measuring = {
        "--path": options.path is not None,
        "--long": options.long,
        "--flush": options.flush is not None,
        "--only": options.only is not None,
        "--list": options.names,
        "--json": options.json_file is not None,
    }
    given = [name for name, is_given in about_measuring.items() if is_given]
    if given:
        raise ValueError(f"--from shows all of {path} and measures nothing: expected it without {', '.join(given)}")
    results = bench_results.read(path)
    if not results.rows:
        raise ValueError(f"{path} holds no benchmark, so there is nothing to show")
    return results


def _write(options: Options, results: bench_results.Results) -> None:
    """The files that are made of results."""
    if options.csv_file is not None:
        bench_results.write_csv(results, options.csv_file)
    if options.roofline is not None:
        from fpes.cli import roofline  # matplotlib, which is imported for pictures only

        with written_whole(options.roofline) as aside:
            roofline.write(results.machine, bench_results.kernels(results), aside)


def _print_tables(results: bench_results.Results) -> None:
    _importable_folder()
    importlib.import_module("bench_table").print_tables(_console(), results)


def _print_changes(before: bench_results.Results | None, results: bench_results.Results) -> None:
    if before is not None:
        bench_results.print_changes(_console(), before, results)


def _console() -> Console:
    return Console(width=118, highlight=False)


def _require_pytest() -> None:
    try:
        import pytest  # noqa: F401
        import pytest_benchmark  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"the benchmarks run under pytest ({error}): pip install pytest pytest-benchmark rich"
        ) from None


def _list(options: Options) -> int:
    import pytest

    collected = _Collected()
    with redirect_stdout(io.StringIO()):
        chosen = ["--collect-only", "-p", "no:benchmark", "-p", "no:xdist"]
        pytest.main([*_pytest_options(options), *chosen, str(_place(options))], plugins=[collected])
    print("\n".join(collected.names))
    return 0


def _measure(options: Options, stored: Path, storage: Path) -> int:
    """Run them, with results in `stored`; the exit status."""
    import pytest

    collected = _Collected()
    chosen = ["--benchmark-quiet", f"--benchmark-json={stored}", f"--benchmark-storage=file://{storage}"]
    with _sigterm_interrupts() as signals:
        status = pytest.main([*_pytest_options(options), *chosen, str(_place(options))], plugins=[collected])
    if status == pytest.ExitCode.INTERRUPTED:
        return TERMINATED if signals else INTERRUPTED
    if options.only is not None and not collected.names:
        raise ValueError(f"no benchmark has a name that {options.only!r} matches; `fpes bench --list` shows them")
    return int(status)


def _pytest_options(options: Options) -> list[str]:
    folder = _importable_folder()
    # The project's settings are for its tests; -p no:cacheprovider leaves nothing in an installed package.
    chosen = ["-q", "-rs", "-p", "no:cacheprovider", "-p", "bench_plugin"]
    chosen += ["-c", str(folder / "pytest.ini"), "--rootdir", str(folder), f"--flush={options.flush or 'boundary'}"]
    return [*chosen, *(["--long"] if options.long else []), *([] if options.only is None else ["-k", options.only])]


def _place(options: Options) -> Path:
    """Of the benchmarks."""
    return _importable_folder() if options.path is None else options.path.resolve()


def _importable_folder() -> Path:
    """Of the benchmarks; modules beside them can be imported from now on."""
    folder = _INSTALLED if _INSTALLED.is_dir() else _IN_THE_REPOSITORY
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return folder


def _this_machine() -> dict[str, Any]:
    _importable_folder()
    machine: dict[str, Any] = importlib.import_module("bench_machine").machine()
    return machine


class _Collected:
    """A plugin of pytest that remembers which benchmarks there are."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_collection_finish(self, session: Any) -> None:
        """What is left after --only and --long."""
        self.names = [item.name for item in session.items]


def _check_writable(path: Path) -> None:
    """Results that can't be written are known before minutes are spent on them."""
    if path.exists() and not path.is_file():
        return  # a pipe, a terminal
    there = path.exists()
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise OSError(f"can't write {path}: {error.strerror or error}") from error
    if not there:
        path.unlink()


@contextmanager
def _sigterm_interrupts() -> Iterator[list[int]]:
    """SIGTERM ends pytest as Ctrl-C does, with the table of what is finished. Yields the signals that came."""
    came: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)
