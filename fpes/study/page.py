"""A report as one HTML page, with pictures and style inside."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from typing import Any

from fpes.study import charts
from fpes.study.bits import effect_in_words
from fpes.study.terminal import both, ratio, share
from fpes.themes import DARK, LIGHT, as_svg, superscript

Row = dict[str, Any]

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --ground: #ffffff; --faint: #d0d7de; --code: #f6f8fa }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --ground: #0d1117; --faint: #3d444d; --code: #161b22 }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 0 auto;
  max-width: 70rem; padding: 1.5rem }
img { max-width: 100%; height: auto; margin: 1rem 0 }
table { border-collapse: collapse; font-size: .875rem; display: block; overflow-x: auto; margin: 1rem 0 }
th, td { border-bottom: 1px solid var(--faint); padding: .25rem .7rem; text-align: left; white-space: nowrap }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
td.words { white-space: normal; min-width: 20rem }
pre { background: var(--code); padding: .8rem; overflow-x: auto; font-size: .8rem }
summary { cursor: pointer; font-weight: 600 }
"""

_ALT = {
    "bits": "Fraction of each kernel's results that differ from flush never, at three scales of operands",
    "product": "Fraction of the partial sums of a matrix product that differ from never, by the number of terms",
    "cost": "Times of every kernel under boundary and always, as multiples of the time of never",
    "code": "Instructions of every kernel: equal in both builds, or different",
}


def html(report: dict[str, Any]) -> str:
    """The page."""
    pictures = {name: _picture(name, size, draw) for name, size, draw in charts.pictures(report)}
    sections = [
        _section(
            "Bits",
            _bits_words(report),
            [pictures.get("bits"), pictures.get("product"), _folded("All comparisons", _bits(report["bits"]))],
        ),
        _section("Cost", _COST_WORDS, [part for cost in report["cost"] for part in _cost_parts(cost, pictures)]),
        _section("Code", _code_words(report["code"]), [pictures.get("code"), _code(report["code"])]),
    ]
    asked = [
        section for part, section in zip(("bits", "cost", "code"), sections, strict=True) if part in report["parts"]
    ]
    said = "".join(f"<li>{escape(superscript(sentence))}</li>" for sentence in report["sentences"])
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>fpes: ftz on and off</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>What flush-to-zero does on this machine</h1>\n{_header(report)}\n<ul>{said}</ul>\n"
        + "\n".join(asked)
        + f"\n<details><summary>The report as JSON</summary><pre>{escape(json.dumps(report))}</pre></details>\n"
        "</body>\n</html>\n"
    )


def _header(report: dict[str, Any]) -> str:
    config = report["fpes"]
    cuda = config["cuda"]
    parts = [
        f"fpes {config['version']}",
        report["machine"]["processor"],
        f"instruction set {config['cpu']['isa']}",
        f"computed on {report['device']}",
        f"CUDA builds: {', '.join(cuda['builds']) or 'none'}",
        report["when"],
    ]
    modes = (
        "<p>A subnormal number is smaller than 2<sup>-126</sup>, the smallest normal float32. <b>never</b> keeps "
        "subnormal numbers, as IEEE 754 does. <b>boundary</b> keeps them inside a matrix product and flushes them to "
        "zero in every other operation. <b>always</b> flushes them in every operation.</p>"
    )
    return f"<p>{escape(' · '.join(parts))}</p>\n{modes}"


def _picture(name: str, size: tuple[float, float], draw: Any) -> str:
    dark, light = (_data_uri(as_svg(draw, size, theme)) for theme in (DARK, LIGHT))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{escape(_ALT[name.partition(" ")[0]])}"></picture>'
    )


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _section(title: str, words: str, parts: list[str | None]) -> str:
    return f"<h2>{title}</h2>\n<p>{words}</p>\n" + "\n".join(part for part in parts if part)


def _folded(title: str, contents: str) -> str:
    """Contents that a click on the title shows."""
    return f"<details><summary>{escape(title)}</summary>{contents}</details>" if contents else ""


def _bits_words(report: dict[str, Any]) -> str:
    size = report["size"]
    return (
        f"Every mode has the same operands. Network {escape(size['network'])}, {size['members']} members, "
        f"{size['batch']} samples. Gradients are compared bit by bit for the same weights, and by direction for the "
        "ranks of each mode."
    )


_COST_WORDS = "Every variant runs once in every round. Ratios are taken within a round: median and quartiles."


def _cost_parts(cost: dict[str, Any], pictures: dict[str, str]) -> list[str | None]:
    title = f"<h3>{escape(cost['device'])}: {escape(cost['clock'])}</h3>"
    return [title, pictures.get(f"cost {cost['device']}"), _cost(cost)]


def _code_words(code: dict[str, Any]) -> str:
    if code.get("reason"):
        return escape(f"Not compared: {code['reason']}.")
    return (
        "Each kernel of the build with -ftz=true beside its counterpart in the build with -ftz=false. Only shared "
        "memory that is fixed at compile time is counted."
    )


def _bits(rows: list[Row]) -> str:
    head = (
        "kernel", "operands", "modes", "#differ, %", "#zeros, %", "#median ULPs", "#largest ULPs", "#largest relative",
        "begins at", "effect",
    )  # fmt: skip
    body = [
        (
            row["kernel"],
            superscript(row["operands"]),
            " against ".join(row["modes"]),
            share(row),
            f"{100 * row['difference']['zeros'] / row['difference']['elements']:.1f}",
            f"{row['difference']['median_ulps']:,}",
            f"{row['difference']['ulps']:,}",
            f"{row['difference']['relative']:.3g}",
            row["begins"],
            effect_in_words(row),
        )
        for row in rows
    ]
    return _table(head, body)


def _cost(cost: dict[str, Any]) -> str:
    head = (
        "kernel", "#never, µs", "#never: subnormal over normal", "#boundary over never, subnormal",
        "#always over never, subnormal", "#boundary over never, normal", "#always over never, normal",
    )  # fmt: skip
    body = [
        (
            kernel["kernel"],
            f"{kernel['microseconds']['subnormal, never']:.1f}",
            ratio(kernel["to_normal"]["never"]),
            *(
                ratio(kernel["to_never"][f"{operands}, {mode}"])
                for operands in ("subnormal", "normal")
                for mode in ("boundary", "always")
            ),
        )
        for kernel in cost.get("kernels", [])
    ]
    return _table(head, body)


def _code(code: dict[str, Any]) -> str:
    head = (
        "kernel", "modes", "arch", "#instructions", "#FFMA", "#FFMA.FTZ", "#all .FTZ", "#lines that differ",
        "#by .FTZ alone", "#PTX", "#PTX .ftz", "#registers", "#shared, bytes", "#spills",
    )  # fmt: skip
    kernels = code.get("kernels", [])
    body = []
    for kernel in kernels:
        ftz, ieee = kernel["ftz"], kernel["ieee"]
        names = ("instructions", "multiply_adds", "flushing_multiply_adds", "flushing")
        counts = [both(ftz[name], ieee[name]) for name in names]
        occupied = [
            both(ftz[name], ieee[name])
            for name in ("ptx_instructions", "ptx_flushing", "registers", "shared", "spills")
        ]
        lines = ["different lengths" if n is None else str(n) for n in (kernel["different"], kernel["only_by_ftz"])]
        body.append((kernel["kernel"], kernel["modes"], kernel["architecture"], *counts, *lines, *occupied))
    if not body:
        return ""
    note = "<p>If a cell has two numbers, the first is the ftz build and the second the ieee build.</p>"
    return note + _table(head, body) + "".join(map(_first_lines, kernels))


def _first_lines(kernel: Row) -> str:
    if not kernel["first"]:
        return ""
    lines = "\n".join(f"{number:6d}  ftz   {left}\n        ieee  {right}" for number, left, right in kernel["first"])
    title = f"First lines that differ: {kernel['kernel']} ({kernel['modes']}), {kernel['architecture']}"
    return f"<details><summary>{escape(title)}</summary><pre>{escape(lines)}</pre></details>"


def _table(head: tuple[str, ...], body: Sequence[tuple[str, ...]]) -> str:
    """A column whose head begins with # holds numbers. The column "effect" may wrap."""
    if not body:
        return ""
    kinds = ["number" if name.startswith("#") else "" for name in head]
    if head[-1] == "effect":
        kinds[-1] = "words"
    top = "".join(f'<th class="{kind}">{escape(name.lstrip("#"))}</th>' for name, kind in zip(head, kinds, strict=True))
    rows = "".join(
        "<tr>"
        + "".join(f'<td class="{kind}">{escape(cell)}</td>' for cell, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in body
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>"
