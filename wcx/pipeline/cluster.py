"""What Ray is told: how a machine is reached, and what runs on it."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from wcx.errors import WcxError, import_extra
from wcx.pipeline.block import OpenedBlock

log = logging.getLogger("wcx")
_STORE = 2**28  # bytes of Ray's own store on one machine: results are small, and what is not goes to its disk
_LONGEST = 35  # letters of the folder: Ray adds 68 or so to its sockets' paths, which have at most 107


class Worker:
    """What runs on a worker; it computes one chunk at a time.

    Args:
        threads: of a pass on the CPU.
        folder: where relative paths begin, if it is there.
    """

    def __init__(self, threads: int, folder: str) -> None:
        torch.set_num_threads(threads)
        if Path(folder).is_dir():
            os.chdir(folder)
        self._opening = threading.Lock()
        self._number = -1
        self._block: OpenedBlock | None = None

    def ready(self) -> None:
        """Return when the worker has started."""

    def call(self, number: int, opener: Callable[[], OpenedBlock], name: str, arguments: Sequence[Any]) -> Any:
        """Call a method of block `number`, which is opened first if another one was held."""
        with self._opening:
            if self._number != number:
                self._block = None  # its memory is for the next
                self._number, self._block = number, opener()
        return getattr(self._block, name)(*arguments)


def _answers(address: str) -> bool:
    """Return whether something listens at host:port, for Ray itself tries for minutes; other addresses are Ray's matter."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        return True
    try:
        with socket.create_connection((host, int(port)), timeout=10):
            return True
    except OSError:
        return False


def connected(address: str | None) -> Any:
    """Return the module `ray`, connected; a new cluster that did not start in Ray's seconds is tried three times.

    Raises:
        WcxError: it is not installed, there is no cluster at that address, or none starts here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = import_extra("ray", "executor=ray", "ray")
    if address and not _answers(address):
        raise WcxError(f"nothing answers at address={address}; start Ray there by `ray start --head`, or leave it out.")
    own = address is None and "RAY_ADDRESS" not in os.environ
    options: dict[str, Any] = {"object_store_memory": _STORE, "include_dashboard": False} if own else {}
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR", "")
    if own and len(folder) > _LONGEST:
        raise WcxError(
            f"Ray cannot start in {folder}: its sockets' paths would be too long; give RAY_TMPDIR=<a folder of at most "
            f"{_LONGEST} letters>."
        )
    options |= {"log_to_driver": False, "logging_level": logging.ERROR}
    for tries in (2, 1, 0):
        try:
            ray.init("local" if own else address, **options)
            break
        except Exception as error:  # a mere one where a process of its own was not there after 15 s, on a busy machine
            line = str(error).partition("\n")[0]
            if own and tries and "timed out" in line:
                log.warning("Ray did not start, and is tried again: %s", line)
                continue
            if own:
                raise WcxError(f"Ray does not start here: {line}") from error
            raise WcxError(
                f"no Ray cluster at address={address}: {line}; start one by `ray start --head`, and give all the same "
                "RAY_AUTH_MODE."
            ) from error
    return ray
