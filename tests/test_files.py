"""Files that are whole or not there, wherever the writing is interrupted."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from fpes import files

OLD, NEW = b"old" * 1000, b"new" * 2000


def write(path: Path) -> None:
    with files.written_whole(path) as aside, aside.open("wb") as stream:
        stream.write(NEW)


class InterruptAt:
    """Raises KeyboardInterrupt before the n-th bytecode instruction of write() and written_whole().

    A signal handler, too, runs between two instructions; here each of them has its turn.
    """

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self, frame: FrameType, event: str, _: Any) -> InterruptAt | None:
        if frame.f_code not in (write.__code__, files.written_whole.__wrapped__.__code__):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if self.left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
            self.left -= 1
        return self


def interrupted(path: Path, n: int) -> bool:
    """Write, and interrupt that at an instruction; False where it has fewer."""
    before = sys.gettrace()
    sys.settrace(InterruptAt(n))
    try:
        write(path)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # between open() and `with` nobody owns it yet
def test_interrupted_before_any_instruction_there_is_one_whole_file(tmp_path):
    path, found = tmp_path / "run.npz", set()
    for n in itertools.count():
        path.write_bytes(OLD)
        if not interrupted(path, n):
            break
        assert [file.name for file in tmp_path.iterdir()] == ["run.npz"], n
        found.add(path.read_bytes())
    assert found == {OLD, NEW}
    assert n > 50


def test_what_a_killed_process_left_behind_goes_with_the_next_file(tmp_path):
    path = tmp_path / "run.npz"
    script = f"""
import os, signal
from pathlib import Path
from fpes import files
with files.written_whole(Path({str(path)!r})) as aside:
    aside.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run([sys.executable, "-c", script], check=False, cwd=tmp_path)  # not where the sources are
    assert run.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.read_bytes() == b"half"
    other = left.with_name(left.name.replace(".run.", ".walk."))
    other.touch()
    write(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [other.name, "run.npz"]
    assert path.read_bytes() == NEW


def test_several_may_write_one_file(tmp_path):
    path = tmp_path / "run.npz"

    def write_often(content: bytes) -> None:
        for _ in range(50):
            with files.written_whole(path) as aside:
                aside.write_bytes(content)
            assert path.read_bytes() in (OLD, NEW)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write_often, [OLD, NEW]))
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]
