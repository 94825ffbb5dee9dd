"""What sees the functions of torch that a network calls."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode


class Watch(TorchFunctionMode):
    """A mode that sees functions called, and nothing once it is left.

    torch takes a mode off its stack while that handles a call of a function. If it is interrupted there, the mode is not on the
    stack when it is left, and may come back as late as the interrupt's traceback is collected.
    """

    _entered = 0

    def __enter__(self) -> Watch:  # type: ignore[override]
        """Begin to see functions."""
        self._entered += 1
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:  # type: ignore[override]
        """See no more."""
        self._entered -= 1
        if _get_current_function_mode_stack()[-1:] == [self]:
            super().__exit__(*error)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        """Handle a call."""
        return self.see(func, args, kwargs or {}) if self._entered else func(*args, **(kwargs or {}))

    @abstractmethod
    def see(self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Return what a function of torch is to return."""

    @classmethod
    def height(cls) -> int:
        """Return how many modes are on torch's stack, but for those at its top that were left."""
        stack = _get_current_function_mode_stack()
        while stack and isinstance(stack[-1], cls) and not stack[-1]._entered:
            _pop_mode()
            stack.pop()
        return len(stack)

    @classmethod
    def leave_to(cls, height: int) -> None:
        """Leave the modes on torch's stack above a height, however often they were entered."""
        for mode in _get_current_function_mode_stack()[height:]:
            if isinstance(mode, cls):
                mode._entered = 0
            _pop_mode()
