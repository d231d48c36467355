"""The pictures of a report: differences, where they begin in a product, cost, and machine code."""

from __future__ import annotations

import textwrap
from functools import partial
from typing import Any

from fpes._matplotlib import Figure
from fpes.study.operands import SCALES
from fpes.themes import Draw, Theme, bare, message, superscript

Row = dict[str, Any]
Picture = tuple[str, tuple[float, float], Draw]  # name, size in inches, drawing

_MOST_KERNELS = 24


def pictures(report: dict[str, Any]) -> list[Picture]:
    """The pictures of a report, in the order of the page."""
    found: list[Picture] = []
    bits = report["bits"]
    if bits:
        kernels = _names(bits)
        found.append(("bits", (13, 2.6 + 0.4 * len(kernels)), lambda f, t: _differences(f, t, bits)))
    products = [row for row in bits if row["series"] and row["kernel"] == "gemm"]
    if products:
        found.append(("product", (10, 5.2), lambda f, t: _product(f, t, products)))
    for cost in report["cost"]:
        if cost["kernels"]:
            size = (11, 2.6 + 0.5 * len(cost["kernels"]))
            found.append((f"cost {cost['device']}", size, partial(_cost, kernels=cost["kernels"])))
    code = _worth_showing(report["code"].get("kernels", []))
    if code:
        found.append(("code", (12, 2.6 + 0.45 * len(code)), lambda f, t: _code(f, t, code)))
    return found


def _differences(drawn: Figure, theme: Theme, rows: list[Row]) -> None:
    """The fraction of results with different bits: a panel for each scale, a line for each kernel."""
    kernels = _names(rows)
    panels = drawn.subplots(1, len(SCALES), sharey=True)
    for axes, scale in zip(panels, SCALES, strict=True):
        for mode, marker, size in (("boundary", "D", 55), ("always", "o", 190)):
            here = [row for row in rows if row["operands"] == scale.name and tuple(row["modes"]) == (mode, "never")]
            axes.scatter(
                [100 * row["difference"]["different"] / row["difference"]["elements"] for row in here],
                [kernels.index(row["kernel"]) for row in here],
                s=size,
                marker=marker,
                facecolors="none" if mode == "always" else theme.modes[mode],
                edgecolors=theme.modes[mode],
                linewidths=2.5,
                label=f"{mode} against never",
                zorder=3,
                clip_on=False,
            )
        axes.set(title=f"operands {superscript(scale.name)}", xlim=(-4, 104), xlabel="elements that differ, %")
        axes.grid(axis="both", zorder=0)
        bare(axes)
    panels[0].set_yticks(range(len(kernels)), kernels)
    panels[0].invert_yaxis()
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    message(drawn, _differences_title(rows))


def _differences_title(rows: list[Row]) -> str:
    far = {row["kernel"] for row in rows if row["operands"] == SCALES[0].name and row["difference"]["different"]}
    near = {row["kernel"] for row in rows if row["difference"]["different"]}
    unit = superscript("2^-126")
    if far or not near:
        return f"{len(near)} of {len(_names(rows))} kernels give other bits in other flush modes"
    return f"Far from {unit} every mode gives the same bits; near it {len(near)} of {len(_names(rows))} kernels don't"


def _product(drawn: Figure, theme: Theme, rows: list[Row]) -> None:
    """The fraction of partial sums of a matrix product that differ from "never", after k terms."""
    axes = drawn.subplots()
    styles = dict(zip((scale.name for scale in SCALES[1:]), ("-", "--"), strict=True))
    for row in rows:
        mode, other = row["modes"]
        if other != "never" or row["operands"] not in styles:
            continue
        terms = range(1, len(row["series"]) + 1)
        axes.plot(
            terms,
            [100 * share for share in row["series"]],
            color=theme.modes[mode],
            ls=styles[row["operands"]],
            label=f"{mode}, operands {superscript(row['operands'])}",
            clip_on=False,
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set(xlabel="terms of the sum, k", ylabel="partial sums that\ndiffer from never, %", ylim=(0, 100))
    axes.grid()
    axes.legend(loc="center right")
    message(drawn, _product_title(rows))


def _product_title(rows: list[Row]) -> str:
    kept = [row for row in rows if tuple(row["modes"]) == ("boundary", "never")]
    if any(row["difference"]["different"] for row in kept):
        return "Partial sums of a matrix product"
    return "A matrix product under boundary is that of never; under always it isn't"


def _cost(drawn: Figure, theme: Theme, kernels: list[Row]) -> None:
    """Time divided by the time of "never", with quartiles: filled for subnormal operands, hollow for normal ones."""
    axes = drawn.subplots()
    axes.axvline(1.0, color=theme.modes["never"])
    for mode, offset in (("boundary", -0.17), ("always", 0.17)):
        for operands, filled in (("normal", False), ("subnormal", True)):
            ratios = [kernel["to_never"][f"{operands}, {mode}"] for kernel in kernels]
            axes.errorbar(
                [ratio["median"] for ratio in ratios],
                [place + offset + (0.0 if filled else 0.12) for place in range(len(kernels))],
                xerr=[
                    [ratio["median"] - ratio["low"] for ratio in ratios],
                    [ratio["high"] - ratio["median"] for ratio in ratios],
                ],
                fmt="D" if mode == "boundary" else "o",
                ms=9 if filled else 6,
                color=theme.modes[mode],
                mfc=theme.modes[mode] if filled else theme.ground,
                label=f"{mode}, {operands} numbers",
            )
    axes.set_yticks(range(len(kernels)), [kernel["kernel"] for kernel in kernels])
    axes.invert_yaxis()
    axes.set(xlabel="time, as a multiple of never's (left is faster)")
    axes.set_xlim(left=min(0.5, axes.get_xlim()[0]))
    axes.grid(axis="x")
    bare(axes)
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    message(drawn, _cost_title(kernels))


def _cost_title(kernels: list[Row]) -> str:
    best = min(kernels, key=lambda kernel: kernel["to_never"]["subnormal, boundary"]["median"])
    ratio = best["to_never"]["subnormal, boundary"]
    if ratio["high"] < 0.95:
        return f"Underflow saves time: {best['kernel']} under boundary takes {ratio['median']:.2f} of never's"
    return "The flush modes take the same time" if _all_alike(kernels) else "What the flush modes cost"


def _all_alike(kernels: list[Row]) -> bool:
    return all(0.95 < ratio["median"] < 1.05 for kernel in kernels for ratio in kernel["to_never"].values())


def _worth_showing(kernels: list[Row]) -> list[Row]:
    """Kernels that multiply and add; only the longest if there are too many."""
    multiplying = [k for k in kernels if k["ftz"]["multiply_adds"] + k["ftz"]["flushing_multiply_adds"] > 0]
    longest = sorted(multiplying, key=lambda k: -k["ftz"]["instructions"])[:_MOST_KERNELS]
    return [k for k in kernels if k in longest]


def _code(drawn: Figure, theme: Theme, kernels: list[Row]) -> None:
    """Instructions of each kernel of the ftz build: equal to those of the ieee build, or different."""
    axes = drawn.subplots()
    places = range(len(kernels))
    totals = [kernel["ftz"]["instructions"] for kernel in kernels]
    flushing = [kernel["only_by_ftz"] or 0 for kernel in kernels]
    other = [
        0 if kernel["different"] is None else kernel["different"] - (kernel["only_by_ftz"] or 0) for kernel in kernels
    ]
    unknown = [total if k["different"] is None else 0 for k, total in zip(kernels, totals, strict=True)]
    same = [total - sum(parts) for total, *parts in zip(totals, flushing, other, unknown, strict=True)]
    left = [0] * len(kernels)
    for label, values, colour in (
        ("the same", same, theme.modes["never"]),
        ("differ by .FTZ alone", flushing, theme.modes["boundary"]),
        ("differ otherwise", other, theme.modes["always"]),
        ("compiled to another length: not compared", unknown, theme.faint),
    ):
        axes.barh(places, values, left=left, color=colour, label=label, height=0.7)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.set_yticks(places, [_shorter(f"{kernel['kernel']}: {kernel['modes']}") for kernel in kernels], fontsize=11)
    axes.invert_yaxis()
    axes.set(xlabel="instructions of machine code")
    bare(axes)
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    message(drawn, _code_title(kernels))


def _code_title(kernels: list[Row]) -> str:
    compared = [kernel for kernel in kernels if kernel["different"] is not None]
    if not compared or any(kernel["different"] != kernel["only_by_ftz"] for kernel in compared):
        return "The machine code of the two builds"
    which = "Two builds" if compared == kernels else f"{len(compared)} of {len(kernels)} kernels in two builds"
    return f"{which}: the same instructions, but for .FTZ"


def _names(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["kernel"] for row in rows))


def _shorter(name: str) -> str:
    return textwrap.shorten(name, 70, placeholder=" ...")
