"""Files that are whole or absent, set aside where they are damaged, and locked against other processes."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from wcx.errors import WcxError

if TYPE_CHECKING:
    import numpy as np  # imported where it is needed, for a quick start

log = logging.getLogger("wcx")
_WRITTEN = count()  # files: the parts of two that write one file at once have different names
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}  # as file systems say it


def encoded(text: str) -> bytes:
    """Return a text as it stands in our files: UTF-8, with a file's name that is none shown by its escapes."""
    return text.encode("utf-8", "backslashreplace")


@contextmanager
def part_of(path: Path) -> Iterator[Path]:
    """Give a name beside a file to write to; what is there at the end takes the file's place, after an error nothing does.

    Of several processes or threads that write the file at once, each has its part, and the last one's stays.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}-{next(_WRITTEN)}.part")
    try:
        yield part
        if part.exists():
            part.replace(path)
    except (Exception, KeyboardInterrupt):
        part.unlink(missing_ok=True)
        raise


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, see `part_of`."""
    with part_of(path) as part, part.open("wb") as file:
        file.write(encoded(content) if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def load(path: Path) -> tuple[bytes, str]:
    """Return what is in a file, and why it cannot be had ("" if it can).

    Raises:
        WcxError: it must not be read.
    """
    try:
        return path.read_bytes(), ""
    except PermissionError as error:
        raise WcxError(f"cannot read {path}: {error.strerror}; give yourself the right to, and run again.") from error
    except FileNotFoundError:
        return b"", "is missing"
    except OSError as error:
        return b"", f"cannot be read ({error.strerror})"


def set_aside(path: Path, reason: str) -> Path:
    """Rename a damaged file to `<name>.damaged-<n>`, and say so in one line of the log; return where it is now."""
    n = 1
    while (aside := path.with_name(f"{path.name}.damaged-{n}")).exists():
        n += 1
    path.rename(aside)
    log.warning("%s %s; set aside as %s", path, reason, aside.name)
    return aside


def memmap(path: Path, shape: tuple[int, ...], dtype: type, mode: str = "r+") -> tuple[np.memmap, bool]:
    """Return the array of an .npy file, made of zeros if it is not there (whole or not at all), and whether it was there.

    A file that is no .npy, or one of another shape or dtype, is set aside.

    Args:
        path: of the file.
        shape: of the array.
        dtype: of the array.
        mode: "r" or "r+".
    """
    import numpy as np

    if path.exists():
        try:
            array = np.lib.format.open_memmap(path, mode="r")  # "r+" would fill up one that is cut off
            if array.shape == shape and array.dtype == dtype:
                return np.lib.format.open_memmap(path, mode=mode), True
            reason = f"has shape {array.shape} and type {array.dtype}, not {shape} and {np.dtype(dtype)}"
        except (ValueError, IsADirectoryError) as error:
            reason = f"is no array ({' '.join(str(error).split())})"
        set_aside(path, reason)
    with part_of(path) as part:
        np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape).flush()
    return np.lib.format.open_memmap(path, mode=mode), False


@contextmanager
def locked(path: Path, wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold a lock file for this process; the lock goes with the process, however it ends.

    Where the file system has no locks, a file beside it, `<path>.owner`, names process and host: that of a process of this
    host that has ended is taken over, that of another host has to be deleted by hand.

    Args:
        path: the lock file, made if need be.
        wait: called once where another process holds the lock, which is then waited for; None raises.

    Raises:
        BlockingIOError: another process holds it; the text says in parentheses what to do if it has ended, or is empty.
    """
    from filelock import FileLock, SoftFileLock, Timeout  # here: an explanation locks nothing

    lock, remedy = FileLock(path, thread_local=False), ""
    try:
        lock.acquire(blocking=False)
    except (OSError, NotImplementedError) as error:
        held = isinstance(error, Timeout)
        if not held and isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        if not held:
            owner = path.with_name(f"{path.name}.owner")
            lock, remedy = SoftFileLock(owner, thread_local=False), f" (if it has ended, delete {owner})"
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if wait is None:
                raise BlockingIOError(remedy) from None
            wait()
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
