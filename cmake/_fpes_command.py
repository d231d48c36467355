"""What the command `fpes` starts with.

Loading NumPy and the C++ module takes some tenths of a second, in which a signal would end the process by itself, or
with Python's traceback. From here on it ends with the status that the command promises; nothing has begun that could
be lost.
"""

from __future__ import annotations

import os
import signal

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _leave(number: int, frame: object) -> None:
    os._exit(128 + number)


def main() -> None:
    """Load the command line, and run it."""
    # A signal that whoever started the command has told it to ignore stays ignored.
    before = {number: signal.signal(number, _leave) for number in _ENDING if signal.getsignal(number) != signal.SIG_IGN}
    from fpes.cli import main as run

    for number, handler in before.items():
        signal.signal(number, handler)
    run()
