"""`fpes bench`: the benchmarks of the repository, run from wherever they are."""

from __future__ import annotations

from pathlib import Path

import fpes

_INSTALLED = Path(fpes.__file__).parent / "benchmarks"
_IN_THE_REPOSITORY = Path(fpes.__file__).parent.parent / "benchmarks"


def run(long_run: bool, json_file: Path | None, compare: Path | None, only: str | None) -> int:
    """Run the benchmarks by pytest, and return its exit status.

    Raises:
        ImportError: pytest or pytest-benchmark is missing.
    """
    try:
        import pytest
        import pytest_benchmark  # noqa: F401
    except ImportError as error:
        raise ImportError(f"the benchmarks run under pytest ({error}): pip install 'fpes[bench]'") from None
    folder = _INSTALLED if _INSTALLED.is_dir() else _IN_THE_REPOSITORY
    # The project's settings are for its tests; -p no:cacheprovider leaves nothing in an installed package.
    options = ["-q", "-p", "no:cacheprovider", "-c", str(folder / "pytest.ini"), "--rootdir", str(folder)]
    options += ["--benchmark-columns=median,iqr,rounds", "-rs"]
    if long_run:
        options.append("--long")
    if json_file is not None:
        options.append(f"--benchmark-json={json_file.resolve()}")
    # A comparison is pytest-benchmark's own table; else ours says more.
    options.append("--benchmark-quiet" if compare is None else f"--benchmark-compare={compare.resolve()}")
    if only is not None:
        options += ["-k", only]
    return int(pytest.main([*options, str(folder)]))
