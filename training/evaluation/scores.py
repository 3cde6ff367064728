"""How many answers are right, and how evenly over the right answers that there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """`accuracy` is the share of exact answers, `f1` the mean over labels, each counting the same."""

    accuracy: float
    f1: float
    num_rows: int


def score(said: Sequence[str], right: Sequence[str]) -> Score:
    """Compares answers without the blanks around them; both lists are as long as each other and not empty."""
    from sklearn.metrics import f1_score  # type: ignore[import-untyped]

    answers, wanted = ([text.strip() for text in texts] for texts in (said, right))
    hits = sum(a == b for a, b in zip(answers, wanted, strict=True))
    # Only labels that are right somewhere: what a model makes up costs the label that it missed.
    f1 = f1_score(wanted, answers, labels=sorted(set(wanted)), average="macro", zero_division=0.0)
    return Score(accuracy=hits / len(wanted), f1=float(f1), num_rows=len(wanted))
