"""The order in which a job sees its rows: a function of its data and its seed alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from training.batches import LengthGrouped
from training.concurrent.batch import num_foretold
from training.config import OptimConfig
from training.encode import Example

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Portion:
    """Rows of one pass. count: tokens that the loss counts in the whole step; closes: it is the last pass."""

    rows: Sequence[Example]
    count: int
    closes: bool


def portions(examples: Sequence[Example], optim: OptimConfig, seed: int) -> Iterator[Portion]:
    """Endlessly, epoch after epoch; rows of like length share a pass, so that little of it is padding."""
    order = LengthGrouped(examples, optim.batch_size, seed)
    for order.epoch in count():
        passes = list(_parts([examples[index] for index in order], optim.batch_size))
        for step in _parts(passes, optim.accumulation):
            num_tokens = sum(num_foretold(rows) for rows in step)
            for number, rows in enumerate(step, start=1):
                yield Portion(rows, num_tokens, closes=number == len(step))


def steps_per_epoch(num_rows: int, optim: OptimConfig) -> int:
    """Optimizer steps in which every row is seen once."""
    return math.ceil(math.ceil(num_rows / optim.batch_size) / optim.accumulation)


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
