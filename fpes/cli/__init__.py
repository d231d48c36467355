"""The command line: `fpes train`, `compare`, `demo`, `bench` and `info`."""

from __future__ import annotations

import sys

from fpes._signals import terminating_raises
from fpes.cli.process import INTERRUPTED, give_up_output, prepare_streams

_NEEDED = ("click", "rich")
_ALL = "click matplotlib pooch rich scikit-learn"  # modules that some commands need


def main() -> None:
    """Run the command line, or name the missing packages."""
    prepare_streams()
    with terminating_raises():
        try:
            try:
                from fpes.cli.commands import cli
            except ModuleNotFoundError as error:
                if error.name not in _NEEDED:
                    raise
                sys.exit(f"fpes: the command line needs {error.name}: pip install {_ALL}")
            cli()
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except OSError as error:  # width of the text that click prints itself
            print(f"fpes: {error}", file=sys.stderr)
            sys.exit(2)
        finally:
            give_up_output()
