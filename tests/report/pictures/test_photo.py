"""Sentences: right whether the share rises, falls or stays, and at both ends of the masked part."""

import pytest

from wcx.report.pictures.plate import percent
from wcx.report.pictures.sentences import masking


@pytest.mark.parametrize(
    ("fraction", "before", "after", "expected"),
    [
        (0.12, 0.55, 0.81, "Masking the 12% of pixels that M marks against A raises its share against B from 0.55 to 0.81."),
        (0.12, 0.81, 0.55, "Masking the 12% of pixels that M marks against A lowers its share against B from 0.81 to 0.55."),
        (0.003, 0.551, 0.549, "Masking the 0.3% of pixels that M marks against A leaves its share against B at 0.55."),
        (0.9999, 1.0, 0.2, "Masking the 99.9% of pixels that M marks against A lowers its share against B from 1.00 to 0.20."),
        (0, 0.5, 0.5, "M marks no pixel against A: nothing is masked, and its share against B stays 0.50."),
        (1, 0.5, 0.6,
         "Masking all of the image, every pixel of which M marks against A, raises its share against B from 0.50 to 0.60."),
    ],
)  # fmt: skip
def test_sentences(fraction: float, before: float, after: float, expected: str) -> None:
    assert masking("M", "A", "B", fraction, before, after) == expected


def test_percent_is_never_nothing_or_all() -> None:
    shares = [1e-7, 2e-5, 1e-4, 0.0049, 0.005, 0.5, 0.994, 0.996, 0.99999]
    assert [percent(s) for s in shares] == ["<0.01%", "<0.01%", "0.01%", "0.5%", "0.5%", "50%", "99%", "99.6%", "99.9%"]
