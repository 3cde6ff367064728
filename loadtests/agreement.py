"""Whether a fast engine says what a slow one says, but for ties that rounding decides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from server.engine.messages import Token

# Log probabilities closer than this are a tie: logits near 16 are steps of 1/16 apart in bfloat16, and sums
# in another order move them by a few.
TIE = 0.25


@dataclass(frozen=True)
class Agreement:
    """Of answers with the same prompts: how many are equal, and how far apart the others' choices stood.

    widest_gap: over answers that differ, between the slow engine's token and the fast one's at the first
    difference, in log probability by the slow engine.
    """

    answers: int
    equal: int
    widest_gap: float
    COLUMNS: ClassVar = ("answers", "equal", "widest gap", "")

    @property
    def is_explained(self) -> bool:
        return self.widest_gap <= TIE

    def row(self) -> tuple[str, ...]:
        verdict = "agree" if self.is_explained else "DIFFER"
        return str(self.answers), str(self.equal), f"{self.widest_gap:.3f}", verdict


def compare(fast: Sequence[Sequence[Token]], slow: Sequence[Sequence[Token]]) -> Agreement:
    """slow: with the log probabilities of its likeliest tokens."""
    gaps = [gap for ours, theirs in zip(fast, slow, strict=True) if (gap := _gap(ours, theirs)) is not None]
    return Agreement(len(fast), len(fast) - len(gaps), max(gaps, default=0.0))


def _gap(ours: Sequence[Token], theirs: Sequence[Token]) -> float | None:
    for a, b in zip(ours, theirs, strict=True):
        if a.token != b.token:
            assert b.logprobs is not None, "the slow engine was not asked for log probabilities"
            return b.logprobs.chosen - dict(b.logprobs.top).get(a.token, float("-inf"))
    return None
