"""Files: whole or absent, set aside where damaged, locked also where the file system has no locks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import filelock
import numpy as np
import pytest

from tests.test_records import COLUMNS, compute, shards
from wcx import files, records
from wcx.errors import WcxError

NO_LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL]


def test_set_aside_overwrites_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for content in "abc":
        (tmp_path / "x.csv").write_text(content)
        files.set_aside(tmp_path / "x.csv", "is odd")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"x.csv.damaged-{n}": content for n, content in enumerate("abc", 1)
    }
    assert caplog.messages[1] == f"{tmp_path / 'x.csv'} is odd; set aside as x.csv.damaged-2"


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(tmp_path / "x", "before")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(tmp_path / "x", b"after")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x": "before"}, "no part is left"


def array(path: Path, shape: tuple[int, ...] = (3, 2), dtype: type = np.float32) -> bytes:
    np.save(path, np.ones(shape, dtype))
    return path.read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:40],
        lambda content: bytes(len(content)),
        lambda content: content.replace(b"'descr'", b"'desc''"),
        lambda content: content.replace(b"(3, 2)", b"(3, 9)"),
        lambda content: content.replace(b"<f4", b"<i4"),
        lambda content: content.replace(b"<f4", b"|O4"),
        lambda content: b"PK\x03\x04" + content[4:],
        lambda content: content.replace(b"(3, 2)", b"(6,)  "),
    ],
)
def test_an_array_that_is_another_is_set_aside(tmp_path: Path, damage, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.npy"
    content = damage(array(path))
    path.write_bytes(content)
    opened, there = files.memmap(path, (3, 2), np.float32)
    assert (opened.shape, opened.dtype, opened.any(), there) == ((3, 2), np.float32, False, False)
    assert (tmp_path / "x.npy.damaged-1").read_bytes() == content
    assert f"{path} " in caplog.text
    opened[1] = 4
    again, there = files.memmap(path, (3, 2), np.float32, "r")
    assert (again[1].tolist(), there) == ([4, 4], True)
    assert not again.flags.writeable


@pytest.fixture(params=NO_LOCKS, ids=lambda number: errno.errorcode[number])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, fcntl: ModuleType) -> None:
    """A file system without locks, as some clusters have."""

    def flock(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.posix
@pytest.mark.usefixtures("no_locks")
def test_records_without_locks_go_on_and_exclude_each_other(tmp_path: Path) -> None:
    both = shards(tmp_path)
    with records.locked(both), pytest.raises(WcxError, match="another process is writing"):
        records.collect(both[1:], 1, compute, COLUMNS)
    assert not list(tmp_path.rglob(".lock.owner"))
    with pytest.raises(KeyError):
        records.collect(both, 1, lambda _: {}["x"], COLUMNS)
    records.collect(both, 1, compute, COLUMNS)
    assert len(both[0].read()) == 3


@pytest.mark.posix
def test_who_holds_a_lock_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fcntl: ModuleType) -> None:
    """The lock of a process that was killed is taken over; that of a running one is not, nor that of another host."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks available")))
    path = tmp_path / "lock.owner"
    hold = f"import filelock, time; a = filelock.SoftFileLock({str(path)!r}); a.acquire(); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
    process.stdout.readline()
    message = r"\(if it has ended, delete .*lock.owner\)"
    with pytest.raises(BlockingIOError, match=message), files.locked(tmp_path / "lock"):
        raise AssertionError("held twice")
    process.kill()
    process.wait()
    with files.locked(tmp_path / "lock"):
        assert path.exists()
    assert not path.exists()
    path.write_text("1\nelsewhere\n")
    with pytest.raises(BlockingIOError, match=message), files.locked(tmp_path / "lock"):
        raise AssertionError("that of another host")


@pytest.mark.posix
def test_a_lock_without_locks_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fcntl: ModuleType) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks available")))
    other, told = filelock.SoftFileLock(tmp_path / "lock.owner", thread_local=False), []
    thread = threading.Thread(target=other.acquire)
    thread.start()
    thread.join()

    def wait() -> None:
        told.append(1)
        threading.Timer(0.2, other.release).start()

    with files.locked(tmp_path / "lock", wait):
        assert told == [1]


@pytest.mark.posix
def test_another_error_of_the_lock_is_no_lack_of_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fcntl: ModuleType
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"), files.locked(tmp_path / "lock"):
        raise AssertionError("held")


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with files.locked(lock), pytest.raises(BlockingIOError, match=r"^$"), files.locked(lock):
        raise AssertionError("held twice")
    with files.locked(lock):
        pass


def test_of_two_arrays_made_at_once_each_has_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second once wrote into the first's, and took it away."""
    make = np.lib.format.open_memmap

    def meanwhile(*arguments: object, **settings: object) -> np.memmap:
        monkeypatch.setattr(np.lib.format, "open_memmap", make)
        array = make(*arguments, **settings)
        files.memmap(tmp_path / "a.npy", (2,), np.uint8)
        return array

    monkeypatch.setattr(np.lib.format, "open_memmap", meanwhile)
    assert files.memmap(tmp_path / "a.npy", (2,), np.uint8)[0].tolist() == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_of_two_that_write_a_file_at_once_the_last_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first once found its part gone: "No such file or directory"."""
    sync = os.fsync

    def meanwhile(number: int) -> None:
        monkeypatch.setattr(os, "fsync", sync)
        files.write(tmp_path / "a", "second")
        sync(number)

    monkeypatch.setattr(os, "fsync", meanwhile)
    files.write(tmp_path / "a", "first")
    assert (tmp_path / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
