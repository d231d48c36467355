"""How fast the compiled kernels can be at most, read from their machine code. No GPU is needed.

    python benchmarks/cuda_model.py            compare the installed builds with cuda_model.json
    python benchmarks/cuda_model.py --write    write cuda_model.json, and the table of docs/cuda.md from it

A kernel's time is that of its main loop: the instructions between two barriers, which multiply `depth` k's. For one
turn of it, by all warps of a scheduler (a quarter of a multiprocessor), the model counts cycles of

    issue     an instruction a cycle
    ports     the register file: two banks, even and odd registers, give an operand of a warp each a cycle; an operand
              marked .reuse is there already; up to WINDOW cycles of reading are hidden
    pipes     multiply-adds one a cycle, integer operations two, population counts and conversions eight
    shared    the unit of shared memory, which four schedulers use in turn: wavefronts of WAVEFRONTS
    waits     what the compiler wrote that a warp waits after each instruction, warps side by side

The largest is the bound, told as the share of the multiply-add peak that the product's multiply-adds have of it. What
the model leaves out, only a GPU tells: barriers, the start and the end of a layer, instructions that are not in the
cache yet, conflicts of two warps for the register file, the last wave of blocks, which isn't full. On an H200 that left
EXPECTED of the bound, from 0.75 (full rank in one launch) to 0.92 (gemm). So the model doesn't say how fast a kernel is
to a few percent; but what makes the code of a loop slower is seen in it, without a GPU.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpes.study import machine_code

ROOT = Path(__file__).resolve().parents[1]
STORED = Path(__file__).with_suffix(".json")
DOCS = ROOT / "docs" / "cuda.md"
BEGIN, END = "<!-- model: begin -->", "<!-- model: end -->"
BUILDS = ("ftz", "ieee")
TOLERANCE = 0.1  # of a bound, which nobody may lose without knowing
EXPECTED = 0.85  # of the bound
# What an H200 has shown, and for which commit.
RESULTS = Path(__file__).parent / "results" / "2026-11-27-cuda-h200.json"
MEASURED_COMMIT = "4fbac66"

REGISTERS, LARGEST_BLOCKS = 65536, 32  # of a multiprocessor, sm_90
THREADS = 2048
SHARED_BYTES, SHARED_OF_A_BLOCK = 233_472, 1024  # of a multiprocessor; what the system takes of each block
WINDOW = 3  # cycles
PIPES = {"alu": 2, "fma": 1, "xu": 8}  # cycles of an instruction of a warp
_XU = re.compile(r"(POPC|MUFU|I2F|F2I|F2F|FRND)\b")
_FMA = re.compile(r"(FFMA|FMUL|FADD|IMAD)\b")
_OTHER = re.compile(r"(LD|ST|RED|ATOM|BAR|BRA|BSSY|BSYNC|EXIT|DEPBAR|U|R2UR|S2|CS2R|WARPSYNC|NOP|MEMBAR)")
# Of a warp's instruction, without conflicts; a 16-byte load takes two where lanes are interleaved (csrc/cuda/tile.hpp).
WAVEFRONTS = {"LDS.128": 2, "LDS.64": 2, "LDS": 1, "STS.128": 4, "STS.64": 2, "STS": 1, "LDGSTS": 1}


@dataclass(frozen=True)
class Watched:
    """A kernel whose bound is written down.

    Args:
        name: in the table.
        pattern: of its readable name.
        depth: k's that a turn of its main loop multiplies.
        shared: bytes of shared memory that a launch asks for.
        measured: the beginning of a table's title, and of a row in it, of RESULTS; empty where there is none.
    """

    name: str
    pattern: str
    depth: int
    shared: int
    measured: tuple[str, str] | None = None


WATCHED = (
    Watched(
        "gemm, 128 x 128",
        r"gemm_kernel<Tile<4, 1, 4, 8, 8, 16>, Ieee, 4>",
        depth=16,
        shared=33_280,
        measured=("gemm 4096", 'fpes, "boundary"'),
    ),
    Watched("gemm, 64 x 128", r"gemm_kernel<Tile<2, 2, 4, 8, 8, 8>, Ieee, 4>", depth=16, shared=25_088),
    Watched(
        "full rank, binomial",
        r"full_rank_kernel<Tile<2, 4, 4, 8, 8, 16>, Ieee, .*0, true>",
        depth=8,
        shared=213_248,
        measured=("full rank, 784-512-512-10, population 1024, batch 32", 'fpes, full, binomial, "boundary"'),
    ),
    Watched(
        "full rank, a layer at a time",
        r"full_rank_kernel<Tile<4, 1, 4, 8, 8, 16>, Ieee, .*0, false>",
        depth=8,
        shared=25_856,
        measured=("full rank, 784-512-512-10, population 1024, batch 128", 'fpes, full, binomial, "boundary"'),
    ),
    Watched(
        "low rank, node, forward",
        r"shared_weights_kernel<Tile<2, 4, 4, 8, 8, 16>, Ieee, true>",
        depth=8,
        shared=220_672,
        measured=("low rank 1", "pure inference"),
    ),
    Watched("gradient, node", r"terms_kernel", depth=16, shared=16_896),
    Watched("gradient, low rank, ranks", r"integer_product_kernel", depth=16, shared=25_088),
    Watched("gradient, low rank, floats", r"float_product_kernel", depth=16, shared=16_896),
)


@dataclass(frozen=True)
class Instruction:
    """One instruction of a loop."""

    address: int
    code: str  # with modifiers
    line: str
    stall: int

    @property
    def sources(self) -> list[tuple[int, bool]]:
        """(register, whether it is marked .reuse), in order, of the operands that are read."""
        operands = self.line.partition(self.code)[2]
        first = 0 if re.match(r"(ST|RED|BRA|BAR)", self.code) else 1
        found = []
        for operand in operands.split(",")[first:]:
            for number, reuse in re.findall(r"\bR(\d+)(?:\.64)?(\.reuse)?", operand):
                found.append((int(number), bool(reuse)))
        return found

    @property
    def target(self) -> int | None:
        """Where a branch goes."""
        match = re.search(r"\bBRA\b.*?0x([0-9a-f]+)$", self.line)
        return int(match[1], 16) if match else None


@dataclass(frozen=True)
class Bound:
    """What the model says of a kernel: of a turn, the cycles of a scheduler, and the share of the peak."""

    registers: int
    warps: int  # of a scheduler
    multiply_adds: int  # of a warp in a turn
    instructions: int
    cycles: dict[str, int]

    @property
    def share(self) -> float:
        """Of the multiply-add peak."""
        return self.warps * self.multiply_adds / max(self.cycles.values())


def bound_of(kernel: machine_code.Kernel, registers: int, watched: Watched) -> Bound:
    """The bound of a kernel, by its slowest main loop."""
    tile = [int(number) for number in re.findall(r"\d+", _tile_of(kernel))]
    threads = 32 * tile[0] * tile[1]
    useful = watched.depth * tile[4] * tile[5]
    warps = _blocks(registers, threads, watched.shared) * threads // 32 // 4
    bounds = [
        Bound(registers, warps, useful, len(turn), _cycles(turn, warps))
        for turn in _turns(_instructions(kernel), useful)
    ]
    if not bounds:
        raise ValueError(f"{watched.name}: no loop of {useful} multiply-adds in {machine_code.readable(kernel.name)}")
    return min(bounds, key=lambda bound: bound.share)


def _tile_of(kernel: machine_code.Kernel) -> str:
    """Its template's tile; the gradients' are told in the sources alone."""
    name = machine_code.readable(kernel.name)
    if match := re.search(r"Tile<([^>]*)>", name):
        return match[1]
    return "2, 2, 4, 8, 8, 8" if "integer" in name else "2, 2, 4, 8, 8, 4"


def _blocks(registers: int, threads: int, shared: int) -> int:
    """Blocks of a multiprocessor, by the rule of cudaOccupancyMaxActiveBlocksPerMultiprocessor."""
    of_a_warp = -(-registers * 32 // 256) * 256
    by_registers = REGISTERS // 4 // of_a_warp * 4 // (threads // 32)
    return min(by_registers, SHARED_BYTES // (shared + SHARED_OF_A_BLOCK), THREADS // threads, LARGEST_BLOCKS)


def _instructions(kernel: machine_code.Kernel) -> list[Instruction]:
    return [
        Instruction(*each)
        for each in zip(kernel.addresses, kernel.instructions, kernel.lines, kernel.stalls, strict=True)
    ]


def _turns(code: list[Instruction], useful: int) -> Iterator[list[Instruction]]:
    """The main loops, turn by turn: loops with a barrier, and multiply-adds in them or in loops inside them."""
    place = {each.address: number for number, each in enumerate(code)}
    loops = [
        (place[each.target], number)
        for number, each in enumerate(code)
        if each.target is not None and each.target <= each.address
    ]
    for begin, end in loops:
        inside = [loop for loop in loops if begin <= loop[0] and loop[1] <= end and loop != (begin, end)]
        body = code[begin : end + 1]
        if not any(each.code.startswith("BAR") for each in body) or _multiply_adds(body) < useful / 4:
            continue
        inner = [loop for loop in inside if _multiply_adds(code[loop[0] : loop[1] + 1]) > useful / 32]
        if any(any(each.code.startswith("BAR") for each in code[a : b + 1]) for a, b in inner) or len(inner) > 1:
            continue  # a loop over layers
        turn = body
        if inner:
            a, b = inner[0]
            rest, each_turn = code[begin:a] + code[b + 1 : end + 1], code[a : b + 1]
            turns = (useful - _multiply_adds(rest)) / _multiply_adds(each_turn)
            turn = code[begin:a] + round(turns) * each_turn + code[b + 1 : end + 1]
        if 0.95 * useful <= _multiply_adds(turn) <= 1.2 * useful and not _simple(turn, useful):
            yield turn


def _simple(turn: list[Instruction], useful: int) -> bool:
    """Whether a k at a time is multiplied, by the loop for shapes that don't fit."""
    codes = [each.address for each in turn if each.code.startswith("FFMA")]
    return len(set(codes)) < useful / 6


def _multiply_adds(code: list[Instruction]) -> int:
    return sum(each.code.startswith("FFMA") for each in code)


def _cycles(turn: list[Instruction], warps: int) -> dict[str, int]:
    pipes = dict.fromkeys(PIPES, 0)
    wavefronts = 0
    for each in turn:
        pipe = "xu" if _XU.match(each.code) else "fma" if _FMA.match(each.code) else "alu"
        if not _OTHER.match(each.code):
            pipes[pipe] += PIPES[pipe]
        kind = next((kind for kind in WAVEFRONTS if each.code.startswith(kind.partition(".")[0])), None)
        if kind is not None:
            size = re.search(r"\.(128|64)\b", each.code)
            wavefronts += WAVEFRONTS.get(f"{each.code.partition('.')[0]}{size[0] if size else ''}", 1)
    return {
        "issue": warps * len(turn),
        "ports": warps * _port_cycles(turn),
        **{pipe: warps * cycles for pipe, cycles in pipes.items()},
        "shared": 4 * warps * wavefronts,
        "waits": sum(max(1, each.stall) for each in turn),
    }


def _port_cycles(turn: list[Instruction]) -> int:
    """Cycles in which a warp's instructions go out one after the other, operands permitting."""
    now = 0
    free = [0, 0]  # when each bank is
    kept: list[int | None] = []  # by operand, what the last instruction marked
    for each in turn:
        sources = each.sources
        for slot, (register, _) in enumerate(sources):
            if slot < len(kept) and kept[slot] == register:
                continue
            bank = register % 2
            free[bank] = max(free[bank], now) + 1
        kept = [register if reuse else None for register, reuse in sources]
        now = max(now + 1, max(free) - WINDOW)
    return now


# --- the table --------------------------------------------------------------------------------------------------------


def found_in(file: Path) -> dict[str, Bound]:
    """The bounds of the watched kernels of a module, by name."""
    registers = machine_code.resources(file)
    kernels = [kernel for kernel in machine_code.sass(file) if kernel.architecture in ("", "sm_90")]
    found = {}
    for watched in WATCHED:
        named = [kernel for kernel in kernels if re.match(watched.pattern, machine_code.readable(kernel.name))]
        if len(named) != 1:
            raise ValueError(f"{watched.name}: {len(named)} kernels are {watched.pattern}, expected 1")
        found[watched.name] = bound_of(named[0], registers[named[0].architecture, named[0].name].registers, watched)
    return found


def described(found: dict[str, Bound]) -> dict[str, Any]:
    """Bounds as they are stored."""
    return {
        name: {
            "registers": bound.registers,
            "warps": bound.warps,
            "instructions": round(bound.instructions / bound.multiply_adds, 3),
            "cycles": bound.cycles,
            "share": round(bound.share, 3),
        }
        for name, bound in found.items()
    }


def measured_share(watched: Watched) -> float | None:
    """The kernel's share of the peak on an H200."""
    if watched.measured is None:
        return None
    runs = json.loads(RESULTS.read_text())["runs"]
    tables = next(run["tables"] for run in runs if run["commit"] == MEASURED_COMMIT)
    title, variant = watched.measured
    rows = next(table["rows"] for table in tables if table["title"].startswith(title))
    return float(next(row["fraction_of_peak"] for row in rows if row["variant"].startswith(variant)))


def table(stored: dict[str, Any]) -> str:
    """The table of docs/cuda.md."""
    lines = [
        "| kernel, sm_90 | registers | warps of a scheduler | instructions for a multiply-add | bound by | "
        "bound, % of peak: ftz | ieee | expected | measured |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for watched in WATCHED:
        ftz, ieee = (stored[build][watched.name] for build in BUILDS)
        by = max(ftz["cycles"], key=ftz["cycles"].get)
        measured = measured_share(watched)
        lines.append(
            f"| {watched.name} | {ftz['registers']} | {ftz['warps']} | {ftz['instructions']:.2f} | {by} | "
            f"{100 * ftz['share']:.0f} | {100 * ieee['share']:.0f} | {100 * EXPECTED * ftz['share']:.0f} | "
            f"{'' if measured is None else f'{100 * measured:.0f}'} |"
        )
    return "\n".join(lines)


def changed(stored: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Kernels whose bound has changed by more than the tolerance, in words."""
    return [
        f"{name}: {100 * found[name]['share']:.1f} % of peak, expected about {100 * bound['share']:.1f} %"
        for name, bound in stored.items()
        if abs(found[name]["share"] - bound["share"]) > TOLERANCE * bound["share"]
    ]


def main() -> int:
    """Compare, or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write cuda_model.json and the table of docs/cuda.md")
    write = parser.parse_args().write
    files = {build: machine_code.module_file(build) for build in BUILDS}
    missing = [build for build, file in files.items() if file is None]
    if missing:
        print(f"no CUDA build {', '.join(missing)}: install with FPES_CUDA=ON")
        return 1
    found = {build: described(found_in(file)) for build, file in files.items() if file is not None}
    print(table(found))
    if write:
        STORED.write_text(json.dumps(found, indent=1) + "\n")
        before, _, rest = DOCS.read_text().partition(BEGIN)
        DOCS.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{rest.partition(END)[2]}")
        return 0
    stored = json.loads(STORED.read_text())
    changes = [f"{build}, {change}" for build in BUILDS for change in changed(stored[build], found[build])]
    print("\n".join(changes))
    return 1 if changes else 0


if __name__ == "__main__":
    raise SystemExit(main())
