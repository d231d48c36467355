"""The benchmarks' part of pytest: options, the fixture `measure`, and the tables at the end.

`fpes bench` loads it for benchmarks of your own too, wherever they are.
"""

from __future__ import annotations

import pytest
from bench_machine import bandwidth, machine
from bench_measure import Measure, timed
from bench_table import print_tables
from rich.console import Console

from fpes._checks import FLUSH_MODES
from fpes.cli.bench_results import Results, row_of


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="more networks and families, half an hour")
    parser.addoption(
        "--flush", choices=[*FLUSH_MODES, "all"], default="boundary", help="the flush mode, or all of them"
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "long: measured with --long only")


def pytest_generate_tests(metafunc):
    if "flush" in metafunc.fixturenames:
        wanted = metafunc.config.getoption("--flush")
        metafunc.parametrize("flush", FLUSH_MODES if wanted == "all" else [wanted])


def pytest_collection_modifyitems(config, items):
    if config.getoption("--long"):
        return
    kept = [item for item in items if item.get_closest_marker("long") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config, machine_info):
    del machine_info["node"]  # the host's name is nobody's business


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config, benchmarks, output_json):
    """What it was measured on: the commit that pytest-benchmark notes is that of the current folder, whatever it is."""
    output_json["machine"] = machine() | {"bandwidth": bandwidth(timed)}


@pytest.fixture
def measure(benchmark) -> Measure:
    """Times a call, its fraction of the peak, and its ratio to fpes."""
    return Measure(benchmark)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # pytest-benchmark stores results before other hooks are called
def pytest_sessionfinish(session):
    """Forget a benchmark that was interrupted in its first round: without times, pytest-benchmark can't store it."""
    measured = getattr(session.config, "_benchmarksession", None)
    if measured:
        measured.benchmarks[:] = [benchmark for benchmark in measured.benchmarks if benchmark]
    return (yield)


def pytest_terminal_summary(terminalreporter, config):
    session = getattr(config, "_benchmarksession", None)
    rows = [row_of(benchmark.as_dict()) for benchmark in session.benchmarks if benchmark.extra_info] if session else []
    if rows:
        print_tables(Console(file=terminalreporter._tw._file, width=118, highlight=False), Results(machine(), rows))
