"""What each part of an image does to an answer: a game of its parts, and their Shapley values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial

import torch
from torch import Tensor


def log_odds(logits: Tensor, target: int, foils: Tensor) -> Tensor:
    """Return g = y_t - logsumexp of y over the foils, float64 (...,), of logits (..., C) and a mask of foils (C,)."""
    y = logits.double()
    return y[..., target] - y[..., foils].logsumexp(-1)


def shapley(values: Mapping[frozenset[str], Tensor], parts: Sequence[str]) -> dict[str, Tensor]:
    """Return the Shapley value of each part of the game e(S) = g(x) - g(x_S).

        phi_k = sum over S without k of |S|! (n - 1 - |S|)! / n! (e(S + k) - e(S)),

    exact, so that they sum to e of all parts. Where there are twins of single parts alone, e({k}) itself, which is the first
    term of that sum.

    Args:
        values: g(x_S) by S, with g(x) at the empty set; any shape.
        parts: the players.
    """
    n = len(parts)
    if len(values) < 2**n:
        return {part: values[frozenset()] - values[frozenset({part})] for part in parts}
    phi = {}
    for part in parts:
        others = [other for other in parts if other != part]
        sets = [frozenset(chosen) for size in range(n) for chosen in combinations(others, size)]
        gains = [
            factorial(len(s)) * factorial(n - 1 - len(s)) / factorial(n) * (values[s] - values[s | {part}])
            for s in sets
        ]
        phi[part] = torch.stack(gains).sum(0)
    return phi
