"""What a user can cause and mend is one line on stderr; what is no mistake of theirs keeps its traceback."""

from __future__ import annotations

import errno
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from wcx.errors import WcxError, among


class SkipError(WcxError):
    """A cell of a sweep that makes no sense (an input method in masking): skipped and reported, no failure."""


MISTAKES = (WcxError, HydraException, OmegaConfBaseException)  # a user's, beside those of the file system:
# What Hydra and OmegaConf say, and what is said instead: "setting" is the one that OmegaConf names beside it.
HYDRAS = {
    r"Could not override '(?P<group>[^.']+)\.(?P<option>[^']+)'": (
        "no setting {option!r} in the {group} chosen here.{options} wcx run {group}=... --cfg job prints those there are."
    ),
    r"Could not override '(?P<group>[^.']+)'": (
        "no setting {group!r} in what is chosen here; wcx run --cfg job prints those there are."
    ),
    r"Missing mandatory value: (?P<name>\S+)": "{name} is needed; give {name}=...",
    r"Ambiguous value for argument '(?P<argument>.*)' 1\. ": "{argument} gives several values; add -m to run each.",
    r"Sweep parameters '(?P<argument>.*)' requires?": "{argument} gives several values; add -m to run each.",
    r"Could not find '(?P<group>.+)/(?P<choice>[^/]*)' Available options in '.*': (?P<choices>.*) Config search": (
        "unknown {group} {choice!r}. Choose one of: {choices}."
    ),
    r"Interpolation key '(?P<name>.*)' not found": (
        "{setting} asks for ${{{name}}}, which is no setting; an environment variable is ${{oc.env:{name}}}, and the mere "
        "characters are \\${{{name}}}."
    ),
    r"Environment variable '(?P<name>.*)' not found": (
        "{setting} asks for the environment variable {name}, which is not set; set it, or give {setting}=..."
    ),
    r"Error merging override (?P<argument>.*)": "cannot read {argument}; check what is between ${{ and }}.",
}
FILES = {errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS}


@contextmanager
def one_line_each() -> Iterator[None]:
    """Make a user's mistake one line on stderr and exit code 2, Ctrl-C one and 130; anything else keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what is finished.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
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
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}; give setting=value, and 'setting=a value' in quotes where blanks are."
    text = re.sub(r" full_key: .*", "", " ".join(str(error).split()))
    setting = getattr(error, "full_key", None)
    for pattern, line in HYDRAS.items():
        if match := re.search(pattern, text):
            return line.format(**match.groupdict(), setting=setting, options=_options(error.__cause__))
    return f"{setting}: {text}" if setting else text


def _options(error: BaseException | None) -> str:
    """Return the sentences on the settings that there are where OmegaConf found none of a name."""
    place = getattr(error, "parent_node", None)
    return among(str(getattr(error, "key", "")), map(str, place)) if isinstance(place, DictConfig) and place else ""
