"""The command line: `fpes train`, `fpes demo`, `fpes info`."""

from __future__ import annotations

import sys

_NEEDED = ("click", "rich", "matplotlib", "pooch", "sklearn")


def main() -> None:
    """Run the command line, or say which packages it lacks."""
    try:
        from fpes.cli.commands import cli
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        sys.exit(f'fpes: the command line needs {error.name}: pip install "fpes[cli]"')
    cli()
