"""Files that are whole or not there, wherever the writing is interrupted."""

from __future__ import annotations

import itertools
import os
import signal
import stat
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


def killed_while_writing(path: Path) -> Path:
    """What a process that was killed half-way has left behind."""
    script = f"""
import os, signal
from pathlib import Path
from fpes import files
with files.written_whole(Path({str(path)!r})) as aside:
    aside.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run([sys.executable, "-c", script], check=False, cwd=path.parent)  # not where the sources are
    assert run.returncode == -signal.SIGKILL
    (left,) = set(path.parent.iterdir()) - {path}
    assert left.read_bytes() == b"half"
    return left


def test_what_a_killed_process_left_behind_goes_with_the_next_file(tmp_path):
    path = tmp_path / "run.npz"
    left = killed_while_writing(path)
    assert left.suffix != ".npz"  # whoever looks for results doesn't find half ones
    other = left.with_name(left.name.replace(".run.", ".walk."))
    other.touch()
    write(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [other.name, "run.npz"]
    assert path.read_bytes() == NEW


def test_what_is_being_written_is_no_leftover_whoever_looks(tmp_path):
    """Not by the number of its process, which another container doesn't know."""
    path = tmp_path / "run.npz"
    with files.written_whole(path) as aside:
        aside.write_bytes(OLD)
        write(path)
        assert path.read_bytes() == NEW
        assert aside.exists()
    assert path.read_bytes() == OLD
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]


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


class TestWhatIsThere:
    def test_a_symbolic_link_stays_one(self, tmp_path):
        (tmp_path / "far").mkdir()
        path, target = tmp_path / "run.npz", tmp_path / "far" / "real.npz"
        path.symlink_to(target)
        for _ in range(2):  # at first it leads nowhere
            write(path)
            assert path.is_symlink()
            assert target.read_bytes() == NEW
        assert [file.name for file in target.parent.iterdir()] == ["real.npz"]

    def test_permissions_stay(self, tmp_path):
        path = tmp_path / "run.npz"
        path.touch()
        path.chmod(0o640)
        write(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640

    @pytest.mark.parametrize("kind", ["fifo", "folder"])
    def test_what_is_no_regular_file_is_left_alone(self, tmp_path, kind):
        path = tmp_path / "run.npz"
        os.mkfifo(path) if kind == "fifo" else path.mkdir()
        with pytest.raises(OSError, match=r"can't write .*run\.npz: it is there, and is no regular file"):
            write(path)
        assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]

    def test_the_reason_and_the_name_are_said(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"can't write .*nowhere/run\.npz: No such file or directory"):
            write(tmp_path / "nowhere" / "run.npz")


class TestOwners:
    """One writer at a time, whether threads, processes or containers."""

    def test_a_second_one_is_refused_and_told_who_the_first_is(self, tmp_path):
        path = tmp_path / "run.npz"
        words = rf"run\.npz is in use by process {os.getpid()} on .*, since 20"
        with files.owned(path):
            with pytest.raises(BlockingIOError, match=words), files.owned(path):
                pass
            with files.owned(tmp_path), files.owned(tmp_path / "walk.npz"):  # other things are free
                pass
        with files.owned(path):
            pass
        assert list(tmp_path.iterdir()) == []

    def test_a_link_is_the_file_that_it_names(self, tmp_path):
        (tmp_path / "link.npz").symlink_to(tmp_path / "run.npz")
        with files.owned(tmp_path / "run.npz"), pytest.raises(BlockingIOError), files.owned(tmp_path / "link.npz"):
            pass

    def test_waiting(self, tmp_path):
        counter = tmp_path / "counter"
        counter.write_text("0")

        def count() -> None:
            for _ in range(25):
                with files.owned(counter, wait=60.0):
                    counter.write_text(str(int(counter.read_text()) + 1))

        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(count) for _ in range(4)]:
                future.result()
        assert counter.read_text() == "100"

    @pytest.mark.parametrize(
        "children", ["", "import multiprocessing as m; m.get_context('fork').Process(target=wait).start()"]
    )
    def test_it_ends_with_its_process(self, tmp_path, children):
        """However that ends, and though children that it forked live on."""
        path = tmp_path / "run.npz"
        script = f"""
import time
from pathlib import Path
from fpes import files
wait = lambda: time.sleep(30)
with files.owned(Path({str(path)!r})):
    {children}
    print("mine", flush=True)
    time.sleep(60)
"""
        command = [sys.executable, "-W", "ignore", "-c", script]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path, start_new_session=True) as process:
            assert process.stdout.readline() == b"mine\n"
            with pytest.raises(BlockingIOError, match=f"in use by process {process.pid}"), files.owned(path):
                pass
            process.kill()
            process.wait()
            with files.owned(path, wait=5.0):
                pass
            if children:
                os.killpg(process.pid, signal.SIGKILL)
        assert list(tmp_path.iterdir()) == []
