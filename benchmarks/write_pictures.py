"""The pictures of the documentation that show stored results: `python benchmarks/write_pictures.py` draws them anew.

Those of the tour are drawn by `python examples/tour.py --output docs/pictures`.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from write_tables import CPU, RESULTS, ROOT

from fpes.cli import bench_results, roofline
from fpes.study import charts
from fpes.themes import save_both

PICTURES = ROOT / "docs" / "pictures"
_STUDY = RESULTS / "2026-11-26-compare-builds-zen4.json"


def write(folder: Path) -> list[Path]:
    """Draw them into a folder, and return their paths."""
    results = bench_results.read(CPU)
    kernels = bench_results.kernels(results)
    draw = partial(roofline.draw, machine=results.machine, kernels=kernels)
    paths = save_both(draw, roofline.size(kernels), folder, "roofline")
    for name, size, draw_study in charts.pictures(json.loads(_STUDY.read_text())):
        paths += save_both(draw_study, size, folder, f"study-{name.split()[0]}")
    return paths


if __name__ == "__main__":
    for path in write(PICTURES):
        print(f"{path.relative_to(ROOT)}: written")
