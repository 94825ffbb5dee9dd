"""Threads that explain one model take turns, and enter together what changes the whole process.

An interrupt may come anywhere: to leave can be done twice, and locks are entered and left by `with`, each in one step of the
interpreter, as a `Condition` is not. They are reentrant, since the garbage collector may close what was left within them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue

from wcx.methods._undo import Step, Undo


@dataclass(eq=False)
class Claim:
    """What one thread is at work on.

    Attributes:
        keys: ids of the modules and parameters that it is at work on.
        waiting: a queue for each thread that waits for its end.
    """

    keys: Sequence[int] = ()
    thread: int = field(default_factory=threading.get_ident)
    waiting: list[SimpleQueue[None]] = field(default_factory=list)


class Turns:
    """Which thread is at work on which module or parameter: not on which model, since wrappers share what is inside."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._claims: dict[int, Claim] = {}  # by the id of a module or parameter

    def take(self, claim: Claim, parts: Sequence[object]) -> None:
        """Wait until no other thread is at work on any of `parts`, and take all of them at once: no two wait for each other."""
        claim.keys = [id(part) for part in parts]
        while True:
            end: SimpleQueue[None] = SimpleQueue()
            with self._lock:
                claims = (self._claims.get(key, claim) for key in claim.keys) if self._claims else ()
                holder = next((rival for rival in claims if rival.thread != claim.thread), None)
                if holder is None:
                    self._claims.update(dict.fromkeys([key for key in claim.keys if key not in self._claims], claim))
                    return
                holder.waiting.append(end)
            end.get()

    def leave(self, claim: Claim) -> None:
        """Give back what a claim has taken, if it has."""
        with self._lock:
            for key in claim.keys:
                if self._claims.get(key) is claim:
                    del self._claims[key]
        for end in claim.waiting:
            end.put(None)


class Joint:
    """A change of the whole process: made by the first of the threads that ask for it, put back by the last.

    Args:
        change: makes it, and notes before what puts it back.
    """

    def __init__(self, change: Callable[[Callable[[Step], None]], None]) -> None:
        self._change, self._lock, self._users = change, threading.RLock(), set[object]()
        self._undo, self._start, self._made = Undo(), partial(bool), False

    def enter(self, user: object) -> None:
        """Make the change, if no other has."""
        with self._lock:
            self._users.add(user)
            if not self._made:
                self._put_back()
                self._undo.note(self._start)
                self._change(self._undo.note)
                self._made = True

    def leave(self, user: object) -> None:
        """Put the change back if there is no other user."""
        with self._lock:
            self._users.discard(user)
            if not self._users:
                self._put_back()

    def _put_back(self) -> None:
        self._made = False
        self._undo.through(self._start)
