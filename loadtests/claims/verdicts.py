"""The rule by which a measured figure speaks for what was published, or against it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Span:
    """From `least` to `most`, both included."""

    least: float = -math.inf
    most: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most

    def __str__(self) -> str:
        if math.isinf(self.most):
            return f">= {self.least:g}"
        return f"<= {self.most:g}" if math.isinf(self.least) else f"{self.least:g} to {self.most:g}"


@dataclass(frozen=True, slots=True)
class Claim:
    """holds: where `figure` reproduces it. wrong: where it says the opposite; elsewhere it is neither."""

    text: str
    source: str
    figure: str
    meaning: str
    holds: Span
    wrong: Span

    def verdict(self, value: float) -> Verdict:
        if value in self.holds:
            return Verdict.REPRODUCED
        return Verdict.WRONG if value in self.wrong else Verdict.NOT_REPRODUCED


@dataclass(frozen=True, slots=True)
class Judged:
    claim: Claim
    value: float
    verdict: Verdict


def judged(claims: Sequence[Claim], figures: Mapping[str, float]) -> Iterator[Judged]:
    """Every claim whose figure was measured."""
    for claim in claims:
        if claim.figure in figures:
            value = figures[claim.figure]
            yield Judged(claim, value, claim.verdict(value))
