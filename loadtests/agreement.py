"""Whether a fast engine says what a slow one says, but for ties that rounding decides.

Both are held against a third that computes in float32: how far the slow one is from that is what bfloat16
costs.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from server.engine.messages import Token

Answers = Sequence[Sequence[Token]]
# How much further from float32 than the slow engine the fast one may be.
MARGIN = 1.25
# Errors of engines that compute in float32 themselves, and what counts as none.
NOTHING, NONE = 1e-4, 1e-6


@dataclass(frozen=True)
class Agreement:
    """Of answers to the same prompts. Errors: of log probabilities, against float32, as long as tokens agree.

    fast_error, slow_error: the geometric mean over answers of each one's root mean square. Where rounding
    tips a whole attention over, which happens to either engine now and then, one answer is off by many times
    what others are: that moves these little, while what is wrong with an adapter's every answer moves them
    much.
    widest_gap: between the slow engine's token and the fast one's where they first differ, in log probability
    by the slow engine; inf if the fast one's is not among its likeliest.
    """

    answers: int
    equal: int
    widest_gap: float
    fast_error: float
    slow_error: float
    largest_slow_error: float
    COLUMNS: ClassVar = ("answers", "equal", "widest gap", "error", "torch's error", "torch's largest", "")

    @property
    def is_explained(self) -> bool:
        """A gap that rounding can close from both sides, and errors like torch's; all of them numbers."""
        is_tie = self.widest_gap <= 2 * self.largest_slow_error < math.inf
        return is_tie and self.fast_error <= max(MARGIN * self.slow_error, NOTHING)

    def row(self) -> tuple[str, ...]:
        figures = (self.widest_gap, self.fast_error, self.slow_error, self.largest_slow_error)
        verdict = "agree" if self.is_explained else "DIFFER"
        return str(self.answers), str(self.equal), *(f"{figure:.4f}" for figure in figures), verdict


def compare(fast: Answers, slow: Answers, exact: Answers) -> Agreement:
    """All with the log probabilities of their likeliest tokens."""
    gaps = [gap for ours, theirs in zip(fast, slow, strict=True) if (gap := _gap(ours, theirs)) is not None]
    fast_errors, slow_errors = _errors(fast, exact), _errors(slow, exact)
    return Agreement(
        answers=len(fast),
        equal=len(fast) - len(gaps),
        widest_gap=_largest(gaps),
        fast_error=_typical(fast_errors),
        slow_error=_typical(slow_errors),
        largest_slow_error=_largest([error for answer in slow_errors for error in answer]),
    )


def _gap(ours: Sequence[Token], theirs: Sequence[Token]) -> float | None:
    for a, b in zip(ours, theirs, strict=True):
        if a.token != b.token:
            assert b.logprobs is not None, "an engine was not asked for log probabilities"
            return b.logprobs.chosen - dict(b.logprobs.top).get(a.token, -math.inf)
    return None


def _errors(answers: Answers, exact: Answers) -> list[list[float]]:
    """Of each answer."""
    return [list(_errors_of(ours, theirs)) for ours, theirs in zip(answers, exact, strict=True)]


def _errors_of(ours: Sequence[Token], theirs: Sequence[Token]) -> Iterator[float]:
    """Not a number where either says so, whether the other lists that token or not."""
    for a, b in zip(ours, theirs, strict=True):
        assert a.logprobs is not None and b.logprobs is not None, "log probabilities are missing"
        here, there = dict(a.logprobs.top), dict(b.logprobs.top)
        yield from (here[token] - there[token] for token in here.keys() & there.keys())
        yield from (value for value in (*here.values(), *there.values()) if math.isnan(value))
        if a.token != b.token:
            break


def _largest(values: Sequence[float]) -> float:
    """Infinite if one is no number."""
    return max((math.inf if math.isnan(value) else abs(value) for value in values), default=0.0)


def _typical(answers: Sequence[Sequence[float]]) -> float:
    """Infinite if there is nothing to compare, or something that is no number."""
    sizes = [max(_rms(errors), NONE) for errors in answers]
    if not sizes or max(sizes) == math.inf:
        return math.inf
    return statistics.geometric_mean(sizes)


def _rms(errors: Sequence[float]) -> float:
    """Infinite if there is nothing to compare, or something that is no number."""
    if not errors or _largest(errors) == math.inf:
        return math.inf
    return math.sqrt(statistics.fmean(error * error for error in errors))
