"""The tour: runs all its scripts, and gives them the folder for their pictures.

python examples/tour.py    # runs the whole tour, in a minute
"""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path

STOPS = ("number_line", "identities", "hard_shrink", "linear_again", "threshold", "other_arithmetics")


def folder_of_the_command_line(description: str | None) -> Path:
    """The folder after --output. Default: runs/tour."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/tour"), help="folder of the pictures")
    return parser.parse_args().output


def main() -> None:
    """Run every stop of the tour."""
    for stop in STOPS:
        print(f"\n{stop}")
        runpy.run_path(str(Path(__file__).with_name(f"{stop}.py")), run_name="__main__")


if __name__ == "__main__":
    main()
