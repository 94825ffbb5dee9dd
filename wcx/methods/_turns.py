"""Threads that explain one model take turns, and enter together what changes the whole process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager


class Turns:
    """Which thread is at work on which module or parameter: not on which model, since wrappers share what is inside."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._threads: dict[int, int] = {}  # by the id of a module or parameter

    @contextmanager
    def take(self, parts: Sequence[object]) -> Iterator[None]:
        """Wait until no other thread is at work on any of `parts`, and take all of them at once: no two wait for each other."""
        thread = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: all(self._threads.get(id(part), thread) == thread for part in parts))
            taken = [id(part) for part in parts if id(part) not in self._threads]
            self._threads.update(dict.fromkeys(taken, thread))
        try:
            yield
        finally:
            with self._changed:
                for key in taken:
                    del self._threads[key]
                self._changed.notify_all()


class Joint:
    """A context that changes the whole process: entered by the first of the threads in it, left by the last."""

    def __init__(self, context: Callable[[], AbstractContextManager[object]]) -> None:
        self._context, self._lock, self._users, self._stack = context, threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._stack.enter_context(self._context())
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._stack.close()
