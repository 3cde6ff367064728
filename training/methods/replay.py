"""Old rows among the new ones."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from training.encode import Example


def with_replay(new: Sequence[Example], old: Sequence[Example], share: float, seed: int) -> list[Example]:
    """The new rows and so many old ones that these are `share` of all, drawn by the seed.

    Every old row is taken once before one is taken again.
    """
    count = round(len(new) * share / (1 - share))
    draw = Random(seed)
    chosen: list[Example] = []
    while len(chosen) < count:
        chosen += draw.sample(list(old), min(len(old), count - len(chosen)))
    return [*new, *chosen]
