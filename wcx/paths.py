"""Names of files as text: bytes that are no UTF-8, `~`, and what can be no path."""

from __future__ import annotations

import os
from pathlib import Path


def visible(name: str | Path) -> str:
    r"""Return a file's name as text that any file and any terminal of UTF-8 takes.

    Python keeps bytes that it cannot decode as lone surrogates, which no encoder takes; they become \xff and the like.

    >>> visible("caf\udce9.png"), visible("M\udcc3\udcb6we"), visible("Möwe")
    ('caf\\xe9.png', 'Möwe', 'Möwe')
    """
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def native(name: str) -> str:
    """Return the name of the file that has the UTF-8 bytes of `name`, as this system's encoding wants it.

    The same text under UTF-8. Where the locale is C, letters beyond ASCII would be an error: there the bytes are kept.
    """
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))


def home(path: str | Path) -> Path:
    """Return `path` with the home folder for `~` or `~user`, unless something has that very name or there is no such user."""
    return Path(path) if exists(path) else Path(os.path.expanduser(path))  # noqa: PTH111 (Path's raises for no such user)


def exists(path: str | Path) -> bool:
    """Return whether there is something at `path`; False for what can be no path: too long, or not to be looked into."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False
