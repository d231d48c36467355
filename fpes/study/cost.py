"""The cost of the flush modes: the same kernels in each mode, in turns, on normal and on subnormal numbers.

On the CPU a mode is two bits of the register MXCSR. The same instructions run with the bits on and off, on one thread,
and the study compares processor time. On a GPU a mode is a build, and the GPU's own clock gives the time. Each round
runs every variant once, so clock frequency, temperature and other processes affect all variants alike. Ratios are taken
within a round. The report has their median and quartiles over the rounds.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from fpes import _cpu, _settings
from fpes._checks import FLUSH_MODES, FloatArray
from fpes.devices import to_device
from fpes.evaluation import Evaluation
from fpes.population import Population
from fpes.primitives import bias_add, gemm, multiply
from fpes.study.operands import SIGMA, Scale, Size, families, members_of, problem

NORMAL, SUBNORMAL = "normal", "subnormal"
_UNITS = {NORMAL: 1.0, SUBNORMAL: 2.0**-130}
_NETWORK_SCALES = {NORMAL: Scale("at 1", 1.0, 1.0), SUBNORMAL: Scale("at 2^-125", 2.0**-125, 2.0**125)}
_NOTICEABLE = 1.25  # a smaller ratio isn't mentioned: other work on the machine can cause it
_ELEMENTS = 1 << 14  # of the elementwise cases: 64 KB. malloc maps larger arrays anew for every call

Run = Callable[[], Any]
Variant = tuple[str, str]  # (operands, mode)


@dataclass(frozen=True)
class Effort:
    """The length of the measurement.

    Args:
        rounds: number of rounds. Every variant runs once in each.
        seconds: minimum time of one variant in a round.
    """

    rounds: int
    seconds: float


WHOLE = Effort(rounds=15, seconds=0.02)
QUICK = Effort(rounds=7, seconds=0.004)


@dataclass(frozen=True)
class Ratio:
    """A ratio of times: median and quartiles over the rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Cost:
    """The cost of one kernel.

    Args:
        kernel: name of the kernel.
        microseconds: median time of a call, by "operands, mode".
        to_never: time divided by the time of "never" on the same operands, by "operands, mode".
        to_normal: time on subnormal operands divided by the time on normal operands, by mode.
        zeros: fraction of zeros in the result for subnormal operands, by mode.
    """

    kernel: str
    microseconds: dict[str, float]
    to_never: dict[str, Ratio]
    to_normal: dict[str, Ratio]
    zeros: dict[str, float]


def study(size: Size, effort: Effort, only: str | None = None, device: str = "cpu") -> dict[str, Any]:
    """Measure on one device.

    Args:
        size: sizes of the operands.
        effort: length of the measurement.
        only: a word that a kernel's name must contain.
        device: "cpu", "cuda" or "cuda:1".

    Returns:
        {"device", "clock", "isa", "kernels": [Cost as a dictionary], "statements": [str]}.
    """
    clock = processor_seconds if device == "cpu" else _gpu_seconds
    with _one_thread():
        costs = [
            _measured(name, variants, effort, clock)
            for name, variants in _cases(size, device)
            if only is None or only in name
        ]
    return {
        "device": device,
        "clock": "processor time, one thread" if device == "cpu" else "time on the GPU",
        "isa": _settings.get_isa() if device == "cpu" else "",
        "kernels": [asdict(cost) for cost in costs],
        "statements": statements(costs, device),
    }


def statements(costs: list[Cost], device: str) -> list[str]:
    """The results of the measurement, as sentences."""
    return [*_on_subnormals(costs, device), *_on_modes(costs), *_on_populations(costs, device)]


def processor_seconds(run: Run, calls: int) -> float:
    """Processor time of the calls. Other processes don't count."""
    began = time.process_time_ns()
    for _ in range(calls):
        run()
    return (time.process_time_ns() - began) * 1e-9


def _gpu_seconds(run: Run, calls: int) -> float:
    import cupy

    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(start, end)) * 1e-3


def _cases(size: Size, device: str) -> Iterator[tuple[str, dict[Variant, Run]]]:
    """For every kernel its name, and a call for each kind of operands and each mode."""
    if device == "cpu":
        for name, operation in (("NumPy multiply", np.multiply), ("NumPy add", np.add)):
            yield name, _numpy_calls(operation)
    for name, build in (("multiply", _multiply), ("bias_add", _bias_add), ("gemm", _gemm)):
        yield (
            name,
            {
                (operands, flush): build(size, unit, flush, device)
                for (operands, unit), flush in itertools.product(_UNITS.items(), FLUSH_MODES)
            },
        )
    for name in ("network", *families(len(size.network) - 1)):
        yield (
            name,
            {
                (operands, flush): _network_call(name, size, scale, flush, device)
                for (operands, scale), flush in itertools.product(_NETWORK_SCALES.items(), FLUSH_MODES)
            },
        )


def _numpy_calls(operation: Any) -> dict[Variant, Run]:
    """A NumPy operation. NumPy has no modes: the MXCSR bits of this thread are on unless the mode is "never"."""
    ones, out = np.ones(_ELEMENTS, np.float32), _page_aligned(_ELEMENTS)
    calls: dict[Variant, Run] = {}
    for operands, unit in _UNITS.items():
        v = _page_aligned(_ELEMENTS)
        v[...] = _positive(v.shape, unit)
        w = v if operation is np.add else ones
        for flush in FLUSH_MODES:
            calls[operands, flush] = partial(_with_flush_bits, flush != "never", operation, v, w, out)
    return calls


def _with_flush_bits(on: bool, operation: Any, v: FloatArray, w: FloatArray, out: FloatArray) -> FloatArray:
    _cpu.set_flush_bits(on)
    try:
        operation(v, w, out=out)
    finally:
        _cpu.set_flush_bits(False)
    return out


def _page_aligned(count: int) -> FloatArray:
    """An array at the start of a page.

    Loads and stores whose addresses differ by whole pages slow each other down. With this alignment that affects all
    variants alike.
    """
    page = 4096
    whole = np.empty(4 * count + page, np.uint8)
    offset = -whole.ctypes.data % page
    return whole[offset : offset + 4 * count].view(np.float32)


def _multiply(size: Size, unit: float, flush: str, device: str) -> Run:
    v = to_device(_positive((_ELEMENTS,), unit), device)
    return lambda: multiply(v, 1.0, flush)


def _bias_add(size: Size, unit: float, flush: str, device: str) -> Run:
    columns = 256
    v = to_device(_positive((_ELEMENTS // columns, columns), unit), device)
    bias = to_device(_positive((columns,), unit), device)
    return lambda: bias_add(v, bias, flush)


def _gemm(size: Size, unit: float, flush: str, device: str) -> Run:
    """All products and sums have the magnitude of the left operand. If it is subnormal, they all are."""
    m, n, k = size.product
    a = to_device(_positive((m, k), unit), device)
    b = to_device((_positive((k, n), 1.0) / np.float32(4 * k)), device)
    return lambda: gemm(a, b, flush)


def _network_call(name: str, size: Size, scale: Scale, flush: str, device: str) -> Run:
    given = problem(size, scale)
    net = given.net.with_flush(flush)
    theta, x, y = (to_device(array, device) for array in (given.theta, given.x, given.y))
    if name == "network":
        return lambda: net(theta, x)
    perturbation = families(net.layers)[name]
    members = Population(net, theta, size=members_of(perturbation, size), sigma=SIGMA, perturbation=perturbation)
    return lambda: members.evaluate(x, y)


def _positive(shape: tuple[int, ...], unit: float) -> Any:
    """Numbers from 1 to 2 times the unit, whose sums don't cancel."""
    return (np.random.default_rng(0).uniform(1.0, 2.0, shape) * unit).astype(np.float32)


def _measured(name: str, variants: dict[Variant, Run], effort: Effort, clock: Callable[[Run, int], float]) -> Cost:
    calls = {variant: _calls_in(run, effort.seconds, clock) for variant, run in variants.items()}
    times: dict[Variant, list[float]] = {variant: [] for variant in variants}
    order = list(variants)
    for turn in range(effort.rounds):
        for variant in _rotated(order, turn):
            times[variant].append(clock(variants[variant], calls[variant]) / calls[variant])
    return _summary(name, times, _zeros(variants))


def _calls_in(run: Run, seconds: float, clock: Callable[[Run, int], float]) -> int:
    """Number of calls that take this time. The first call isn't counted, because it may allocate."""
    run()
    calls = 1
    while (taken := clock(run, calls)) < seconds / 2:
        calls = max(2 * calls, min(100 * calls, round(calls * seconds / max(taken, 1e-9))))
    return max(1, round(calls * seconds / taken))


def _rotated(order: list[Variant], turn: int) -> list[Variant]:
    first = turn % len(order)
    return order[first:] + order[:first]


def _summary(name: str, times: dict[Variant, list[float]], zeros: dict[str, float]) -> Cost:
    return Cost(
        kernel=name,
        microseconds={_words(variant): 1e6 * float(np.median(taken)) for variant, taken in times.items()},
        to_never={
            _words((operands, flush)): _ratio(times[operands, flush], times[operands, "never"])
            for operands, flush in times
            if flush != "never"
        },
        to_normal={flush: _ratio(times[SUBNORMAL, flush], times[NORMAL, flush]) for flush in FLUSH_MODES},
        zeros=zeros,
    )


def _ratio(ours: list[float], theirs: list[float]) -> Ratio:
    """Ratio of the times within each round."""
    low, median, high = np.percentile(np.divide(ours, theirs), [25, 50, 75])
    return Ratio(float(median), float(low), float(high))


def _zeros(variants: dict[Variant, Run]) -> dict[str, float]:
    """Fraction of zeros in a result, by mode. Populations have no entry: their fitness isn't zero."""
    found = {}
    for flush in FLUSH_MODES:
        result = variants[SUBNORMAL, flush]()
        if not isinstance(result, Evaluation):
            bits = result.view(np.uint32)
            found[flush] = float((bits << np.uint32(1) == 0).mean())
    return found


def _words(variant: Variant) -> str:
    return ", ".join(variant)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = _settings.get_threads()
    _settings.set_threads(1)
    try:
        yield
    finally:
        _settings.set_threads(before)


def _on_subnormals(costs: list[Cost], device: str) -> list[str]:
    """The cost of subnormal numbers themselves, in kernels that skip nothing, in a mode that doesn't flush."""
    plain = [cost for cost in costs if cost.kernel in ("NumPy multiply", "NumPy add", "multiply", "bias_add", "gemm")]
    if not plain:
        return []
    ratios = [cost.to_normal["never"].median for cost in plain]
    where = "this processor" if device == "cpu" else "this GPU"
    spread = f"{min(ratios):.2f} to {max(ratios):.2f} times as long as normal ones"
    names = ", ".join(cost.kernel for cost in plain)
    if max(ratios) < _NOTICEABLE:
        return [f"Subnormal numbers cost nothing on {where}: without flushing they take {spread} ({names})."]
    return [f"Subnormal numbers are slow on {where}: without flushing they take {spread} ({names})."]


def _on_modes(costs: list[Cost]) -> list[str]:
    """The cost of flushing itself, on normal numbers, where all modes give the same results."""
    ratios = [ratio.median for cost in costs for words, ratio in cost.to_never.items() if words.startswith(NORMAL)]
    if not ratios:
        return []
    span = f"{min(ratios):.2f} to {max(ratios):.2f} times the time of never"
    if min(ratios) > 1 / _NOTICEABLE and max(ratios) < _NOTICEABLE:
        return [f"Flushing itself costs nothing: on normal numbers, the modes that flush take {span}."]
    return [f"On normal numbers, where all modes give equal results, the modes that flush take {span}."]


def _on_populations(costs: list[Cost], device: str) -> list[str]:
    """The population that gains most from underflow, and the one that loses most by flushing everywhere."""
    populations = [cost for cost in costs if cost.kernel in families(2)]
    if not populations:
        return []
    said = []
    best = min(populations, key=lambda cost: _to_never(cost, "boundary").median)
    ratio = _to_never(best, "boundary")
    if ratio.high < 1.0:
        why = ", because zeros are skipped" if device == "cpu" else ""
        said.append(
            f"Underflow makes populations faster{why}: {best.kernel} under boundary takes "
            f"{_in_words(ratio)} the time of never."
        )
    worst = max(populations, key=lambda cost: _to_never(cost, "always").median)
    ratio = _to_never(worst, "always")
    if ratio.low > 1.0:
        said.append(
            f"Flushing every multiply-add costs time: {worst.kernel} under always takes {_in_words(ratio)} the "
            "time of never."
        )
    return said


def _to_never(cost: Cost, flush: str) -> Ratio:
    return cost.to_never[_words((SUBNORMAL, flush))]


def _in_words(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} times (quartiles {ratio.low:.2f} to {ratio.high:.2f})"
