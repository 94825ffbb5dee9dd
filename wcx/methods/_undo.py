"""What a thread has changed and has to put back, whenever it is interrupted.

Python raises KeyboardInterrupt between any two steps, those of `finally` and of a context's `__enter__` and `__exit__` among them.
So what puts a change back is noted before the change, can be done twice, and is crossed off once it is done; who called gets the
rest done, and the public calls are the last to.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from wcx.methods._watch import Watch

P = ParamSpec("P")
R = TypeVar("R")
_AUTOCAST = ("cpu", "cuda")

Step = Callable[[], object]


class Undo:
    """Steps that put changes back, the last first."""

    def __init__(self) -> None:
        self._steps: list[Step] = []

    def note(self, step: Step) -> None:
        """Note a step that is right as well before the change, half-way, and a second time; no other may be equal to it."""
        self._steps.append(step)

    @property
    def last(self) -> Step | None:
        """The last step noted."""
        return self._steps[-1] if self._steps else None

    def through(self, step: Step) -> None:
        """Take all steps noted since `step`, and it; none if it was taken."""
        self._take_while(lambda: step in self._steps)

    def back_to(self, last: Step | None) -> None:
        """Take all steps noted since `last` was the last."""
        self._take_while(lambda: bool(self._steps) and self._steps[-1] is not last)

    def _take_while(self, more: Callable[[], bool]) -> None:
        try:
            while more():
                self._take()
        except BaseException:  # an interrupt in here, or a step that fails: the others are taken
            self._take_while(more)
            raise

    def _take(self) -> None:
        try:
            self._steps[-1]()
        except Exception:
            self._steps.pop()
            raise
        self._steps.pop()


class _Changed(threading.local):
    def __init__(self) -> None:
        self.undo = Undo()


_thread = _Changed()


def changes() -> Undo:
    """Return this thread's changes."""
    return _thread.undo


def modes() -> Step:
    """Return a step that puts torch's modes of this thread back as they are: gradients, autocast, what sees functions called."""
    grad, height, depth = torch.is_grad_enabled(), Watch.height(), _autocasts()
    cached = torch.is_autocast_cache_enabled()
    autocast = [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in _AUTOCAST]

    def put_back() -> None:
        Watch.leave_to(height)
        for kind, enabled, dtype in autocast:
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, dtype)
        torch.set_autocast_cache_enabled(cached)
        while _autocasts() > depth:
            torch.clear_autocast_cache()  # of cast weights, as they were in there
            torch.autocast_decrement_nesting()
        torch.set_grad_enabled(grad)

    return put_back


def _autocasts() -> int:
    """Return how many autocasts are entered, in one step of the interpreter."""
    _, depth = map(operator.call, (torch.autocast_increment_nesting, torch.autocast_decrement_nesting))
    return depth


def undone(call: Callable[P, R]) -> Callable[P, R]:
    """Let a public call put back whatever an interrupt kept from being put back further in."""

    @wraps(call)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        undo = changes()
        last = undo.last
        try:
            return call(*args, **kwargs)
        except BaseException:
            undo.back_to(last)
            raise

    return guarded
