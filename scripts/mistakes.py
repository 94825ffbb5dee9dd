"""What a user can cause and mend is one line on stderr; what is no mistake of theirs keeps its traceback."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from wcx.errors import WcxError

MISTAKES = (WcxError, HydraException, OmegaConfBaseException)  # a user's, beside those of the file system:
FILES = {errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS}


@contextmanager
def one_line_each() -> Iterator[None]:
    """Make a user's mistake one line on stderr and exit code 2; anything else keeps its traceback."""
    try:
        yield
    except Exception as error:
        if line := one_line(error):
            print(f"error: {line}", file=sys.stderr)
            sys.exit(2)
        raise


def told(error: Exception) -> str:
    """Return what a failure that ends one job of several says in one line; what is no mistake shows its traceback, too."""
    if line := one_line(error):
        return line
    traceback.print_exception(error)
    return " ".join(f"{type(error).__name__}: {error}".split())


def one_line(error: Exception) -> str | None:
    """Return what a user's mistake says in one line, with the fix; None for any other error."""
    if isinstance(error, OSError) and error.errno in FILES:
        place = f"cannot use {error.filename}: {error.strerror}" if error.filename else error.strerror
        return f"{place}; check path, rights and room, or give another folder: paths.results_dir=..., paths.checkpoints_dir=..."
    if not isinstance(error, MISTAKES):
        return None
    text = " ".join(str(error).split())
    if key := re.match(r"Could not override '([^']+)'", text):
        group, _, option = key[1].partition(".")
        show = f"python run.py {group}=... --cfg job prints those there are"
        return f"no setting {option or group!r} in the {group} chosen here; {show}."
    if key := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{key[1]} is needed; give {key[1]}=..."
    return text
