"""`fpes bench`: the benchmarks of the repository, run from wherever they are."""

from __future__ import annotations

import io
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import fpes
from fpes.cli.process import INTERRUPTED, TERMINATED

_INSTALLED = Path(fpes.__file__).parent / "benchmarks"
_IN_THE_REPOSITORY = Path(fpes.__file__).parent.parent / "benchmarks"


def run(long_run: bool, json_file: Path | None, compare: Path | None, only: str | None, names: bool) -> int:
    """Run the benchmarks by pytest, or list their names, and return the exit status.

    Raises:
        ImportError: pytest or pytest-benchmark is missing.
        OSError: the results can't be written where they should go.
        ValueError: no benchmark has such a name.
    """
    try:
        import pytest
        import pytest_benchmark  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"the benchmarks run under pytest ({error}): pip install pytest pytest-benchmark rich"
        ) from None
    if json_file is not None:
        _check_writable(json_file)
    collected = _Collected()
    if names:
        with redirect_stdout(io.StringIO()):
            options = ["--collect-only", "-p", "no:benchmark", "-p", "no:xdist"]
            pytest.main([*_options(long_run, only), *options, str(_folder())], plugins=[collected])
        print("\n".join(collected.names))
        return 0
    with tempfile.TemporaryDirectory() as storage, _sigterm_interrupts() as signals:
        # A comparison is pytest-benchmark's own table; else ours says more.
        options = ["--benchmark-quiet" if compare is None else f"--benchmark-compare={compare.resolve()}"]
        if json_file is not None:
            options.append(f"--benchmark-json={json_file.resolve()}")
        options += [f"--benchmark-storage=file://{storage}", "--benchmark-columns=median,iqr,rounds"]
        status = pytest.main([*_options(long_run, only), *options, str(_folder())], plugins=[collected])
    if status == pytest.ExitCode.INTERRUPTED:
        return TERMINATED if signals else INTERRUPTED
    if only is not None and not collected.names:
        raise ValueError(f"no benchmark has a name that {only!r} matches; `fpes bench --list` shows them")
    return int(status)


def _options(long_run: bool, only: str | None) -> list[str]:
    folder = _folder()
    # The project's settings are for its tests; -p no:cacheprovider leaves nothing in an installed package.
    options = ["-q", "-p", "no:cacheprovider", "-c", str(folder / "pytest.ini"), "--rootdir", str(folder)]
    return [*options, "-rs", *(["--long"] if long_run else []), *([] if only is None else ["-k", only])]


def _folder() -> Path:
    return _INSTALLED if _INSTALLED.is_dir() else _IN_THE_REPOSITORY


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
