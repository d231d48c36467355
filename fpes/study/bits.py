"""The effect of the flush modes on results. Kernels run on the same operands in every mode, compared bit by bit.

The kernels are every primitive, the matrix product, the network, and each family of populations with its gradient. The
operands are at scale 1, at 2^-125, and crowded around 2^-126 (operands.py).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fpes._checks import FLUSH_MODES, FloatArray
from fpes.devices import to_device, to_host
from fpes.evaluation import Evaluation
from fpes.network import LinearNetwork
from fpes.perturbations import Perturbation
from fpes.population import Population
from fpes.primitives import bias_add, gemm, multiply
from fpes.shaping import centred_ranks
from fpes.study.operands import SCALES, SIGMA, Problem, Scale, Size, families, members_of, problem

PAIRS = (("boundary", "never"), ("always", "never"), ("always", "boundary"))


@dataclass(frozen=True)
class Difference:
    """The difference of two results, element by element.

    Args:
        elements: number of elements.
        different: number of elements with different bits.
        zeros: number of zeros in the first result.
        other_zeros: number of zeros in the second result.
        ulps: the largest distance in units in the last place (ULP). Neighbouring float32 numbers have distance 1.
        median_ulps: the median distance of the elements that differ.
        relative: the largest |a - b| / max(|a|, |b|). It is 1 if one of them is zero, and up to 2 if signs differ.
        first: index of the first element that differs, () if none does.
    """

    elements: int
    different: int
    zeros: int
    other_zeros: int
    ulps: int
    median_ulps: int
    relative: float
    first: tuple[int, ...]


@dataclass(frozen=True)
class Finding:
    """The comparison of one kernel, on one kind of operands, in two flush modes.

    Args:
        kernel: name of the kernel.
        operands: name of the scale of the operands.
        modes: the two modes.
        difference: the difference of the results.
        checksums: CRC-32 of both results, for comparisons between devices.
        begins: the place of the first difference, in words; "" if there is none.
        effect: consequences of the difference, in numbers; see `effect_in_words`.
        series: numbers for a picture: the fraction of elements that differ, after each term or layer.
    """

    kernel: str
    operands: str
    modes: tuple[str, str]
    difference: Difference
    checksums: tuple[int, int]
    begins: str = ""
    effect: dict[str, float] = field(default_factory=dict)
    series: list[float] = field(default_factory=list)


def study(size: Size, only: str | None = None, device: str = "cpu") -> list[dict[str, Any]]:
    """Compare the modes on one device.

    Args:
        size: sizes of the operands.
        only: a word that a kernel's name must contain. Default: all kernels.
        device: "cpu", "cuda" or "cuda:1".

    Returns:
        Findings as dictionaries.
    """
    found = []
    for scale in SCALES:
        for name, findings in _cases(size, scale, device):
            if only is None or only in name:
                found += [asdict(finding) for finding in findings()]
    return found


def kernels_with_other_bits(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[str]:
    """Kernels whose results differ between two studies, for example of two devices."""
    return list(
        dict.fromkeys(
            mine["kernel"]
            for mine, other in zip(ours, theirs, strict=True)
            if tuple(mine["checksums"]) != tuple(other["checksums"])
        )
    )


def effect_in_words(row: dict[str, Any]) -> str:
    """The consequences of a difference for classes, for fitness and ranks, or for the direction of a gradient."""
    effect = row["effect"]
    if "samples" in effect:
        return f"{effect['classes']} of {effect['samples']} samples change their class"
    if "members" in effect:
        return _ranks_in_words(effect)
    if "cosine" in effect:
        return f"with the ranks of each mode: cosine {effect['cosine']:.2f}"
    return "with the ranks of each mode: zero, as all members are equal in one mode" if "gradient" in effect else ""


def _ranks_in_words(effect: dict[str, float]) -> str:
    if not effect["fitness"]:
        return "fitness and ranks are the same"
    changed = f"fitness of {effect['fitness']} of {effect['members']} members changes, by up to {effect['largest']:.3g}"
    if "rank_correlation" not in effect:
        return f"{changed}; in one mode all members are equal and have no ranks"
    return f"{changed}; {effect['ranks']} ranks change, rank correlation {effect['rank_correlation']:.2f}"


def difference(a: FloatArray, b: FloatArray) -> Difference:
    """Compare two float32 arrays of one shape, bit by bit. Zeros of different sign count as different."""
    mine, other = (np.ascontiguousarray(v).view(np.uint32) for v in (a, b))
    unequal = mine != other
    first = np.argwhere(unequal)[:1]
    exact_a, exact_b = a.astype(np.float64), b.astype(np.float64)
    size = np.maximum(abs(exact_a), abs(exact_b))
    relative = np.divide(abs(exact_a - exact_b), size, out=np.zeros_like(size), where=size > 0)
    distances = abs(_ordered(mine) - _ordered(other))
    return Difference(
        elements=a.size,
        different=int(unequal.sum()),
        zeros=int((mine << np.uint32(1) == 0).sum()),
        other_zeros=int((other << np.uint32(1) == 0).sum()),
        ulps=int(distances.max()),
        median_ulps=int(np.median(distances[unequal])) if unequal.any() else 0,
        relative=float(relative.max()),
        first=tuple(map(int, first[0])) if first.size else (),
    )


def activations(net: LinearNetwork, theta: FloatArray, x: FloatArray) -> list[FloatArray]:
    """The outputs of each layer, by the primitives in the network's flush mode. The last output is the logits."""
    inverse = 1.0 / net.scaling
    flush = net.flush
    results = []
    h = x
    for layer, (weight, bias) in enumerate(net.unpack(theta), start=1):
        product = gemm(h, weight, flush=flush)
        if layer == 1:
            h = multiply(bias_add(product, bias, flush=flush), inverse, flush=flush)
        else:
            h = bias_add(product, multiply(bias, inverse, flush=flush), flush=flush)
        results.append(h)
    results[-1] = multiply(h, net.scaling, flush=flush)
    return results


def _cases(size: Size, scale: Scale, device: str) -> Iterator[tuple[str, Callable[[], list[Finding]]]]:
    yield "multiply", lambda: _elementwise("multiply", size, scale, device)
    yield "bias_add", lambda: _elementwise("bias_add", size, scale, device)
    yield "gemm", lambda: _product(size, scale, device)
    yield "network", lambda: _network(size, scale, device)
    for family, perturbation in families(len(size.network) - 1).items():
        given = (perturbation, size, scale, device)
        yield f"population: {family}", partial(_population, f"population: {family}", *given)
        yield f"gradient: {family}", partial(_gradient, f"gradient: {family}", *given)


def _elementwise(name: str, size: Size, scale: Scale, device: str) -> list[Finding]:
    """multiply: v times 1; bias_add: v plus a row of biases."""
    rng = np.random.default_rng(1)
    v = to_device(scale.numbers(rng, size.elements), device)
    bias = to_device(scale.numbers(rng, size.elements[1:]), device)
    results = {
        flush: to_host(multiply(v, 1.0, flush) if name == "multiply" else bias_add(v, bias, flush))
        for flush in FLUSH_MODES
    }
    title = "multiply by 1" if name == "multiply" else name
    return [
        Finding(title, scale.name, modes, found, sums, _at("row {}, column {}", found))
        for modes, found, sums in _differences(results)
    ]


def _product(size: Size, scale: Scale, device: str) -> list[Finding]:
    """A product and all of its partial sums. The sum of k terms is the product of the first k columns and rows."""
    rng = np.random.default_rng(2)
    m, n, k = size.product
    a, b = scale.numbers(rng, (m, k)), scale.factors(rng, (k, n))
    partial: dict[str, list[FloatArray]] = {flush: [] for flush in FLUSH_MODES}
    for terms in range(1, k + 1):
        left, right = (to_device(np.ascontiguousarray(part), device) for part in (a[:, :terms], b[:terms]))
        for flush, sums in partial.items():
            sums.append(to_host(gemm(left, right, flush)))
    findings = []
    for modes, found, checksums in _differences({flush: sums[-1] for flush, sums in partial.items()}):
        series = _shares(partial[modes[0]], partial[modes[1]])
        began = next((terms for terms, share in enumerate(series, start=1) if share > 0), None)
        begins = "" if began is None else f"k = {began} of {k}"
        findings.append(Finding("gemm", scale.name, modes, found, checksums, begins, series=series))
    return findings


def _network(size: Size, scale: Scale, device: str) -> list[Finding]:
    given = problem(size, scale)
    theta, x = to_device(given.theta, device), to_device(given.x, device)
    layers = {flush: [to_host(h) for h in activations(given.net.with_flush(flush), theta, x)] for flush in FLUSH_MODES}
    logits = {flush: to_host(given.net.with_flush(flush)(theta, x)) for flush in FLUSH_MODES}
    findings = []
    for modes, found, sums in _differences(logits):
        ours, theirs = (layers[mode] for mode in modes)
        series = _shares(ours, theirs)
        moved = int((np.argmax(logits[modes[0]], axis=1) != np.argmax(logits[modes[1]], axis=1)).sum())
        findings.append(
            Finding(
                "network",
                scale.name,
                modes,
                found,
                sums,
                _first_layer(ours, theirs),
                {"classes": moved, "samples": given.x.shape[0]},
                series,
            )
        )
    return findings


def _population(name: str, perturbation: Perturbation, size: Size, scale: Scale, device: str) -> list[Finding]:
    given = problem(size, scale)
    outputs, fitness = {}, {}
    for flush in FLUSH_MODES:
        members = _members(given, flush, perturbation, size, device)
        outputs[flush] = to_host(members.forward(to_device(given.x, device)))
        fitness[flush] = to_host(_evaluated(members, given, device).fitness)
    return [
        Finding(
            name,
            scale.name,
            modes,
            found,
            sums,
            _at("member {}, sample {}", found),
            _on_fitness(fitness[modes[0]], fitness[modes[1]]),
        )
        for modes, found, sums in _differences(outputs)
    ]


def _gradient(name: str, perturbation: Perturbation, size: Size, scale: Scale, device: str) -> list[Finding]:
    """Bits for the same weights in every mode, and directions for the ranks of each mode."""
    given = problem(size, scale)
    same, own = {}, {}
    weights = np.linspace(-1, 1, members_of(perturbation, size)).astype(np.float32)
    for flush in FLUSH_MODES:
        members = _members(given, flush, perturbation, size, device)
        evaluation = _evaluated(members, given, device)
        ranks: npt.NDArray[Any] = centred_ranks(to_host(evaluation.fitness))
        if perturbation.per_sample:
            ranks = ranks.astype(np.float32)
        same[flush] = to_host(members.gradient(to_device(weights, device), evaluation))
        own[flush] = to_host(members.gradient(to_device(ranks, device), evaluation))
    return [
        Finding(
            name,
            scale.name,
            modes,
            found,
            sums,
            _at("parameter {}", found),
            _on_direction(own[modes[0]], own[modes[1]]),
        )
        for modes, found, sums in _differences(same)
    ]


def _members(given: Problem, flush: str, perturbation: Perturbation, size: Size, device: str) -> Population:
    theta = to_device(given.theta, device)
    count = members_of(perturbation, size)
    return Population(given.net.with_flush(flush), theta, size=count, sigma=SIGMA, perturbation=perturbation, seed=3)


def _evaluated(members: Population, given: Problem, device: str) -> Evaluation:
    return members.evaluate(to_device(given.x, device), to_device(given.y, device))


def _differences(results: dict[str, FloatArray]) -> Iterator[tuple[tuple[str, str], Difference, tuple[int, int]]]:
    """For each pair of modes: the difference of the results, and their checksums."""
    checksums = {flush: zlib.crc32(np.ascontiguousarray(result).data) for flush, result in results.items()}
    for modes in PAIRS:
        ours, theirs = modes
        yield modes, difference(results[ours], results[theirs]), (checksums[ours], checksums[theirs])


def _shares(ours: list[FloatArray], theirs: list[FloatArray]) -> list[float]:
    """The fraction of elements that differ, step by step."""
    steps = (difference(a, b) for a, b in zip(ours, theirs, strict=True))
    return [step.different / step.elements for step in steps]


def _at(words: str, found: Difference) -> str:
    return words.format(*found.first) if found.first else ""


def _first_layer(ours: list[FloatArray], theirs: list[FloatArray]) -> str:
    for layer, (a, b) in enumerate(zip(ours, theirs, strict=True), start=1):
        found = difference(a, b)
        if found.different:
            return f"layer {layer} of {len(ours)}, sample {found.first[0]}"
    return ""


def _on_fitness(ours: FloatArray, theirs: FloatArray) -> dict[str, float]:
    """How many members change their fitness, by how much, and how their ranks change."""
    found = difference(ours, theirs)
    mine, other = centred_ranks(ours), centred_ranks(theirs)
    effect: dict[str, float] = {
        "fitness": found.different,
        "members": ours.size,
        "largest": float(abs(ours.astype(np.float64) - theirs).max()),
        "ranks": int((mine != other).sum()),
    }
    if mine.any() and other.any():
        effect["rank_correlation"] = _cosine(mine, other)
    return effect


def _on_direction(ours: FloatArray, theirs: FloatArray) -> dict[str, float]:
    """Lengths of two gradients, and their cosine if neither is zero. Members of equal fitness give a zero gradient."""
    effect = {"gradient": _length(ours), "gradient_of_other": _length(theirs)}
    return effect | ({"cosine": _cosine(ours, theirs)} if ours.any() and theirs.any() else {})


def _length(v: FloatArray) -> float:
    return float(np.linalg.norm(v.astype(np.float64)))


def _cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    left, right = a.astype(np.float64), b.astype(np.float64)
    return float(left @ right / np.sqrt((left @ left) * (right @ right)))


def _ordered(bits: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """Consecutive integers for consecutive float32 numbers. Both zeros are 0."""
    magnitude = (bits & np.uint32(0x7FFF_FFFF)).astype(np.int64)
    ordered: npt.NDArray[np.int64] = np.where(bits >> np.uint32(31), -magnitude, magnitude)
    return ordered
