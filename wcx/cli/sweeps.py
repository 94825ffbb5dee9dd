"""What a sweep (-m) skipped or failed at: noted by each job, in whatever process a launcher puts it, told at the end."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOG = "WCX_SWEEP_LOG"  # inherited by the jobs' processes: joblib's workers, and submitit's jobs


def note(kind: str, name: str, line: str) -> bool:
    """Note a job that was `skipped` or `failed`; False where there is nowhere to note it (the launcher must tell)."""
    if _LOG not in os.environ:
        return False
    with Path(os.environ[_LOG]).open("a", encoding="utf-8", errors="backslashreplace") as log:
        # one short write at the end: jobs may note at once
        log.write(f"{kind}: {name}: {line}\n")
    return True


@contextmanager
def reported(folder: Path) -> Iterator[None]:
    """Run a sweep; print what its jobs noted, and leave with exit code 1 if any failed.

    Args:
        folder: where the notes are kept meanwhile: one that all the jobs' machines see.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.resolve() / f"{uuid.uuid4().hex}.txt"
    os.environ[_LOG] = str(log)
    try:
        yield
    finally:
        del os.environ[_LOG]
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        if lines:
            print(*lines, sep="\n", file=sys.stderr)
    if any(line.startswith("failed") for line in lines):
        sys.exit(1)
