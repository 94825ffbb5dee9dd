"""Numbers with the bounds that they are to keep, and their table in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wcx.errors import WcxError


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        part: of the check.
        subject: what was measured.
        value: of it.
        least: the value is to be no less; None: there is no such bound.
        most: likewise, no more.
    """

    part: str
    subject: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def goal(self) -> str:
        """The bounds in words."""
        words = {"at least": self.least, "at most": self.most}
        return ", ".join(f"{word} {bound:.3g}" for word, bound in words.items() if bound is not None)

    @property
    def kept(self) -> bool:
        """Whether the value is within its bounds."""
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)


@dataclass(frozen=True)
class LeftOut:
    """What could not be measured, of a part whose other findings stand.

    Attributes:
        part: of the check.
        subject: what was to be measured.
        reason: why it was not.
    """

    part: str
    subject: str
    reason: str


class LeftOutError(WcxError):
    """A part that cannot be measured here."""


def text(findings: Sequence[Finding], left_out: dict[str, str], title: str) -> str:
    """Return the findings as a table in Markdown."""
    lines = [f"| {title} | value | goal | |", "|---|---|---|---|"]
    for f in findings:
        verdict = ("" if not f.goal else "kept") if f.kept else "**missed**"
        lines.append(f"| {f.part}: {f.subject} | {f.value:.4g} | {f.goal} | {verdict} |")
    lines += [f"| {part} | left out: {reason} | | |" for part, reason in left_out.items()]
    return "\n".join(lines) + "\n"


def verdict(findings: Sequence[Finding]) -> str:
    """Return how many goals were kept, as a line."""
    bounded = [finding for finding in findings if finding.goal]
    return f"{sum(finding.kept for finding in bounded)} of {len(bounded)} goals kept"


def failed(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings out of their bounds."""
    return [finding for finding in findings if not finding.kept]
