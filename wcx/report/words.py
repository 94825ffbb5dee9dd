"""What a map says, in words: sentences built from numbers only."""

from __future__ import annotations


def masking(marks: str, target: str, rival: str, fraction: float, before: float, after: float) -> str:
    """Return one sentence on what masking the pixels against a class does to its share against another.

    Args:
        marks: contrast and method, e.g. "weighted GradCAM".
        target: the class's name.
        rival: the other class's name.
        fraction: share of the pixels that are masked.
        before, after: share of the class: p_target / (p_target + p_rival).

    Example:
        >>> masking("weighted GradCAM", "albatross", "fulmar", 0.12, 0.55, 0.81)
        'Masking the 12% of pixels that weighted GradCAM marks against albatross raises its share against fulmar from 0.55 to 0.81.'
    """
    if fraction == 0:
        none = f"{marks[:1].upper()}{marks[1:]} marks no pixel against {target}"
        return f"{none}: nothing is masked, and its share against {rival} stays {before:.2f}."
    first, last = f"{before:.2f}", f"{after:.2f}"
    if first == last:
        does = f"leaves its share against {rival} at {first}"
    else:
        does = f"{'raises' if after > before else 'lowers'} its share against {rival} from {first} to {last}"
    if fraction == 1:
        return f"Masking all of the image, every pixel of which {marks} marks against {target}, {does}."
    return f"Masking the {percent(fraction)} of pixels that {marks} marks against {target} {does}."


def percent(fraction: float) -> str:
    """Return a share above 0 and below 1 in per cent; never "0%" or "100%"."""
    if fraction < 0.01:
        return f"{100 * fraction:.1g}%" if fraction >= 0.0001 else "<0.01%"
    return f"{100 * fraction:.0f}%" if fraction < 0.995 else f"{min(99.9, 100 * fraction):.1f}%"
