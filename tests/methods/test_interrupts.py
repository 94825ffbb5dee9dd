"""Ctrl-C at any step of a call: the model, torch's modes and the locks are as before, and the next call gives the same map."""

from __future__ import annotations

import contextlib
import gc
import linecache
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import checkpoint

import wcx
from tests.methods import transformers
from tests.methods.test_state_and_threads import facts
from wcx import bridges
from wcx.methods import _process, _state, _undo

pytestmark = pytest.mark.usefixtures("one_thread")

Moment = tuple[str, str, int]  # event, file, line
# Where contexts that stand in wcx/methods are entered and left, too.
PLACES = {contextlib.__file__, *map(str, Path(_state.__file__).parent.glob("*.py"))}
PLACES |= {*(sys.modules[f"torch.{name}"].__file__ for name in ("overrides", "utils.hooks"))}
PLACES |= {sys.modules[f"torch.{name}"].__file__ for name in ("autograd.grad_mode", "amp.autocast_mode")}
# Contexts that are left in one step of the interpreter, before which it looks for no signal: a trace function could come between.
IN_C = ("with self._lock:", "with torch._C.DisableTorchFunction():")
CASES = {"known": "gradcam", "searched": "gradcam", "functions": "deeplift", "replaced": "legrad"}


class Net(nn.Module):
    """A convolution, BatchNorm and a classifier; in train mode, with a parameter that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 3)
        self.head.bias.requires_grad_(False)
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).mean((2, 3)))


def tracer(act: Callable[[Moment], None]) -> Callable[..., Any]:
    """Return a trace function that calls `act` at each step within wcx/methods and in what enters its contexts."""

    def trace(frame: FrameType, event: str, _: object) -> Any:
        path, line = frame.f_code.co_filename, frame.f_lineno
        if path not in PLACES:
            return None
        if event != "exception" and (path, line) not in in_c():
            act((event, path, line))
        return trace

    return trace


@cache
def in_c() -> set[tuple[str, int]]:
    """Return where `IN_C` stand."""
    lines = ((path, number, line.strip()) for path in PLACES for number, line in enumerate(linecache.getlines(path), 1))
    return {(path, number) for path, number, line in lines if line.startswith(IN_C)}


def traced(call: Callable[[], object], act: Callable[[Moment], None]) -> None:
    before = sys.gettrace()
    sys.settrace(tracer(act))
    try:
        call()
    finally:
        sys.settrace(before)


def firsts(moments: list[Moment]) -> list[int]:
    """Return the places in a list at which a moment comes for the first time."""
    return sorted({moment: k for k, moment in reversed(list(enumerate(moments)))}.values())


def interrupt(k: int) -> Callable[[Moment], None]:
    """Return what interrupts at the k-th step."""
    left = k

    def act(_: Moment) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            sys.settrace(None)
            raise KeyboardInterrupt

    return act


def nesting() -> int:
    """Return how many autocast contexts are entered."""
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def surroundings() -> list[object]:
    """Return what a call changes beside the model: torch's modes, what is patched, who waits for whom."""
    return [
        *(torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        [mode for mode in torch.overrides._get_current_function_mode_stack() if getattr(mode, "_entered", True)],
        *(torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"), nesting()),
        *(torch.get_autocast_dtype("cpu"), torch.is_autocast_cache_enabled()),
        *(dict(vars(part)) for part in (checkpoint.CheckpointFunction, checkpoint._checkpoint_hook)),
        *(dict(_state._turns._claims), set(_process._kept._users), vars(_process._thread).get("depth", 0)),
        *(list(_undo.changes()._steps), vars(_state._thread).get("state")),
    ]


@pytest.mark.parametrize("case", CASES)
def test_an_interrupt_at_any_step_leaves_all_as_it_was(case: str) -> None:
    torch.manual_seed(0)
    model = transformers.made("repeated, fused") if case == "replaced" else Net()
    if case == "searched":  # nothing is known of a network with hooks
        model.stem.register_forward_hook(lambda *_: None)
    images = torch.rand(1, 3, 8, 8).to(next(model.parameters()))

    def call() -> Tensor:
        run = wcx.Explainer(model, CASES[case])(images)
        return run.explain(wcx.cotangent(run.logits, 1))

    right, moments = call(), list[Moment]()
    before, around = facts(model), surroundings()
    traced(call, moments.append)
    errors = deque[KeyboardInterrupt](maxlen=3)  # with their tracebacks, as a notebook keeps the last
    count = 0
    for k in firsts(moments):
        try:
            traced(call, interrupt(k))
        except KeyboardInterrupt as error:
            errors.append(error)
            count += 1
        assert facts(model) == before, moments[k]
        assert surroundings() == around, moments[k]
    assert count > 100
    other = threading.Thread(target=call, daemon=True)
    other.start()
    other.join(60)
    assert not other.is_alive()
    assert torch.equal(call(), right)
    errors.clear()
    gc.collect()
    assert torch.equal(call(), right)
    assert (
        not torch.overrides._len_torch_function_stack()
    )  # torch itself puts a mode back late: the next call clears it away
    assert facts(model) == before
    assert surroundings() == around


def rounded(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """Return an explanation of a pass that was made under autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        run = wcx.Explainer(model, "gradient")(images)
    return partial(run.explain, wcx.cotangent(run.logits, 1))


def plain(model: nn.Module, images: Tensor) -> Callable[[], object]:
    return partial(wcx.explain, model, images, 1)


def of_a_bridge(model: nn.Module, images: Tensor) -> Callable[[], object]:
    return partial(bridges.frozen, model, images, 1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a generator that is collected
@pytest.mark.parametrize(
    ("made", "around"),
    [
        (rounded, contextlib.nullcontext),
        (plain, torch.no_grad),
        (plain, torch.inference_mode),
        (of_a_bridge, contextlib.nullcontext),
    ],
)
def test_an_interrupt_in_a_mode_of_torch_leaves_that_at_once_and_no_other_once_its_traceback_is_gone(
    made: Callable[[nn.Module, Tensor], Callable[[], object]], around: Callable[[], AbstractContextManager[object]]
) -> None:
    """A mode that stays would switch gradients off in a later training, or let autocast use weights of before a step."""
    model, images = Net(), torch.rand(1, 3, 8, 8)
    call, moments = made(model, images), list[Moment]()
    outside = surroundings()
    with around():
        call()
        traced(call, moments.append)
        inside = surroundings()
    count = 0
    lasts = {moment: k for k, moment in enumerate(moments)}.values()
    for k in sorted({*firsts(moments), *lasts}):
        kept = None
        with around():
            try:
                traced(call, interrupt(k))
            except KeyboardInterrupt as error:
                kept = error
                count += 1
            assert surroundings() == inside, moments[k]
        assert surroundings() == outside, moments[k]
        del kept
        assert surroundings() == outside, moments[k]
    assert count > 100


@pytest.mark.parametrize("way", ["through", "back_to"])
def test_steps_that_fail_or_are_interrupted_keep_no_other_from_being_taken(way: str) -> None:
    undo, taken = _undo.Undo(), list[str]()

    def fail() -> None:
        raise RuntimeError("only leaf variables have flags")

    def interrupted() -> None:
        if "interrupted" not in taken:
            taken.append("interrupted")
            raise SystemExit
        taken.append("again")

    first, others = (lambda: taken.append("first")), [fail, lambda: taken.append("middle"), interrupted, partial(fail)]
    for step in (first, *others):
        undo.note(step)
    with pytest.raises(RuntimeError, match="only leaf"):
        undo.through(first) if way == "through" else undo.back_to(None)
    assert taken == ["interrupted", "again", "middle", "first"]
    assert undo.last is None
