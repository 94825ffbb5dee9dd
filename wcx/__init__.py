"""wcx: class-contrastive explanations of image classifiers: why this class, but not the others?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wcx.contrasts import cotangent
from wcx.errors import WcxError
from wcx.explainer import Explainer, explain, upsample

if TYPE_CHECKING:  # what the study needs is imported by who calls it
    from wcx.leaderboard import benchmark

__all__ = ["Explainer", "WcxError", "benchmark", "cotangent", "explain", "upsample"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name != "benchmark":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from wcx.leaderboard import benchmark

    return benchmark
