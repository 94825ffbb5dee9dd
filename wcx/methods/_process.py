"""What is changed of the whole process while a model is explained: torch.compile and gradient checkpointing step aside."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch.utils import checkpoint

from wcx.methods._turns import Joint
from wcx.methods._undo import Step, Undo


def plain(undo: Undo, user: object) -> None:
    """Run compiled modules uncompiled, and let torch.utils.checkpoint call its function and do nothing else, in this thread.

    Compiled code does not run hooks that were added after it was compiled; nothing is compiled as long as torch's compiler was not
    imported, which takes two seconds. A checkpoint's second forward pass, from within the backward one, would meet neither our
    hooks nor the rules of DeepLIFT and LRP, and the reentrant kind allows no gradients but those of `backward()`.

    Args:
        undo: what puts it back is noted there.
        user: who asks; another each time.
    """
    for joint in (_eager, _kept) if "torch._dynamo" in sys.modules else (_kept,):
        undo.note(partial(joint.leave, user))
        joint.enter(user)
    undo.note(partial(vars(_thread).update, depth=_thread.depth))
    _thread.depth += 1


def _run_eagerly(note: Callable[[Step], None]) -> None:
    from torch._dynamo import eval_frame

    note(partial(eval_frame._set_stance, eval_frame._stance))
    torch.compiler.set_stance("force_eager")


def _keep_checkpoints(note: Callable[[Step], None]) -> None:
    """Wrap what both kinds of torch.utils.checkpoint are made of: the function itself may have been imported by name."""
    reentrant = checkpoint.CheckpointFunction
    hook = getattr(checkpoint, "_checkpoint_hook", type("Missing", (nullcontext,), {}))
    apply, enter, leave = reentrant.apply, hook.__enter__, hook.__exit__
    wrappers = [
        (reentrant, "apply", lambda run, preserve, *args: run(*args) if _thread.depth else apply(run, preserve, *args)),
        (hook, "__enter__", lambda self: None if _thread.depth else enter(self)),
        (hook, "__exit__", lambda self, *error: None if _thread.depth else leave(self, *error)),
    ]
    for owner, key, wrapper in wrappers:
        note(partial(_put_back, owner, key, vars(owner).get(key)))
        setattr(owner, key, wrapper)


def _put_back(owner: type, key: str, original: object) -> None:
    if original is not None:
        setattr(owner, key, original)
    elif key in vars(owner):
        delattr(owner, key)


class _Depth(threading.local):
    depth = 0  # of models that the thread has in its hands


_thread = _Depth()
_eager, _kept = Joint(_run_eagerly), Joint(_keep_checkpoints)
