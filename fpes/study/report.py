"""One report of all studies, as plain data. `fpes compare-builds` writes it as JSON and draws it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fpes import build_config
from fpes._backends import cuda_modules
from fpes.study import bits, code, cost, operands

PARTS = ("bits", "cost", "code")
QUICK_KERNELS = "gemm"  # the only kernels whose machine code is compared with --quick; disassembly is slow

Say = Callable[[str], None]


def make(parts: Sequence[str], kernel: str | None, quick: bool, *, device: str, say: Say) -> dict[str, Any]:
    """Run the studies.

    Args:
        parts: which of PARTS.
        kernel: a word that the names of kernels must contain.
        quick: smaller operands, fewer rounds.
        device: "cpu", "cuda" or "cuda:1". Bits are computed on this device. Time is measured on it and on the CPU.
        say: function that is called with a message before each study.

    Returns:
        {"fpes", "when", "machine", "device", "quick", "parts", "size", "sentences", "bits", "cost", "code"}; a part
        that wasn't requested is empty. On a GPU also "other_than_cpu": kernels whose bits differ from the CPU's.
    """
    size = operands.QUICK if quick else operands.WHOLE
    report: dict[str, Any] = {
        "fpes": build_config(),
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {"processor": processor(), "system": platform.platform(), "python": platform.python_version()},
        "device": device,
        "quick": quick,
        "parts": list(parts),
        "size": {"network": size.name, "members": size.members, "batch": size.batch},
        "bits": [],
        "cost": [],
        "code": {},
    }
    if "bits" in parts:
        say("bits: the same operands in every flush mode")
        report["bits"] = bits.study(size, kernel, device)
        if device != "cpu":
            report["other_than_cpu"] = bits.kernels_with_other_bits(report["bits"], bits.study(size, kernel))
    if "cost" in parts:
        say("cost: the same kernels in every flush mode, in turns")
        effort = cost.QUICK if quick else cost.WHOLE
        report["cost"] = [cost.study(size, effort, kernel, where) for where in dict.fromkeys(("cpu", device))]
    if "code" in parts:
        say("code: PTX and machine code of the CUDA builds")
        report["code"] = code.study(QUICK_KERNELS if quick and kernel is None else kernel)
    report["sentences"] = sentences(report)
    return report


def sentences(report: dict[str, Any]) -> list[str]:
    """The main results of the report, as sentences."""
    return [
        *_on_bits(report["bits"]),
        *_on_devices(report),
        *(sentence for measured in report["cost"] for sentence in measured["statements"]),
        *_on_code(report["code"]),
    ]


def kernel_names() -> list[str]:
    """Names of the kernels whose bits and cost are compared."""
    families = operands.families(len(operands.WHOLE.network) - 1)
    return ["multiply", "bias_add", "gemm", "network", *families]


def usable_device() -> str:
    """ "cuda" if there are a GPU, CuPy and both builds; else "cpu"."""
    from fpes._backends import backend_named

    if len(cuda_modules.builds()) < len(cuda_modules.MODULES):
        return "cpu"
    try:
        backend_named("cuda")
    except (ImportError, RuntimeError, ValueError):
        return "cpu"
    return "cuda"


def processor() -> str:
    """The processor's name from Linux, or else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _on_bits(rows: list[dict[str, Any]]) -> list[str]:
    said = []
    for scale in operands.SCALES:
        here = [row for row in rows if row["operands"] == scale.name]
        kernels = list(dict.fromkeys(row["kernel"] for row in here))
        equal = [name for name in kernels if not any(row["kernel"] == name and _differs(row) for row in here)]
        if kernels and len(equal) == len(kernels):
            said.append(f"Operands {scale.name}: all {len(kernels)} kernels give the same bits in every mode.")
        elif kernels:
            same = f"; equal in every mode: {', '.join(equal)}" if equal else ""
            said.append(
                f"Operands {scale.name}: {len(kernels) - len(equal)} of {len(kernels)} kernels give different bits in "
                f"different modes{same}."
            )
    return [*said, *_on_products(rows), *_on_networks(rows)]


def _on_devices(report: dict[str, Any]) -> list[str]:
    if "other_than_cpu" not in report:
        return []
    kernels = {row["kernel"] for row in report["bits"]}
    if not report["other_than_cpu"]:
        return [f"{report['device']} gives the CPU's bits: all {len(kernels)} kernels, every mode, all operands."]
    return [f"{report['device']} gives OTHER bits than the CPU: {', '.join(report['other_than_cpu'])}."]


def _on_products(rows: list[dict[str, Any]]) -> list[str]:
    products = [row for row in rows if row["kernel"] == "gemm"]
    kept = [row for row in products if tuple(row["modes"]) == ("boundary", "never")]
    flushed = [row for row in products if tuple(row["modes"]) == ("always", "never") and _differs(row)]
    if not flushed or any(map(_differs, kept)):
        return []
    share = max(row["difference"]["different"] / row["difference"]["elements"] for row in flushed)
    return [
        f"A matrix product under boundary has the bits of never. Under always up to {100 * share:.0f} % of its "
        f"elements differ, from {flushed[0]['begins']} on."
    ]


def _on_networks(rows: list[dict[str, Any]]) -> list[str]:
    published = operands.SCALES[1].name
    networks = [
        row
        for row in rows
        if row["kernel"] == "network" and row["operands"] == published and row["modes"][1] == "never" and _differs(row)
    ]
    return [
        f"The network {row['operands']}: {row['modes'][0]} differs from never from {row['begins']} on; "
        f"{bits.effect_in_words(row)}."
        for row in networks
    ]


def _differs(row: dict[str, Any]) -> bool:
    return bool(row["difference"]["different"])


def _on_code(found: dict[str, Any]) -> list[str]:
    if not found:
        return []
    if found["reason"]:
        return [f"Machine code wasn't compared: {found['reason']}."]
    kernels = found["kernels"]
    if not kernels:
        return ["Machine code: no kernel has this word in its name."]
    compared = [kernel for kernel in kernels if kernel["different"] is not None]
    equal = [kernel for kernel in compared if kernel["different"] == 0]
    alone = [kernel for kernel in compared if 0 < kernel["different"] == kernel["only_by_ftz"]]
    rest = len(kernels) - len(equal) - len(alone)
    return [
        f"Machine code of {len(kernels)} kernels: {len(equal)} have equal instructions in both builds, {len(alone)} "
        f"differ only by .FTZ, {rest} compile to different instructions.",
        *_on_product_code(compared),
    ]


def _on_product_code(compared: list[dict[str, Any]]) -> list[str]:
    """The matrix product, which has kernels for boundary and for always."""
    products = [kernel for kernel in compared if kernel["kernel"].startswith("gemm_kernel")]
    kept = [kernel for kernel in products if kernel["modes"] == "boundary"]
    flushed = [kernel for kernel in products if kernel["modes"] == "always"]
    if not kept or not flushed or any(kernel["different"] != kernel["only_by_ftz"] for kernel in flushed):
        return []
    if any(kernel["different"] for kernel in kept):
        return []
    differing = sorted({kernel["different"] for kernel in flushed})
    return [
        f"gemm under boundary has the instructions of never: {len(kept)} kernels of {', '.join(_lengths(kept))} "
        f"instructions. Under always {' or '.join(map(str, differing))} of them differ: FFMA.FTZ instead of FFMA."
    ]


def _lengths(kernels: list[dict[str, Any]]) -> list[str]:
    return [str(length) for length in sorted({kernel["ftz"]["instructions"] for kernel in kernels})]
