"""Each process's share of the rows, such that all of them together do what one process would.

A row without loss tokens adds nothing to any sum of losses. Shares are made even with such rows, so no
process waits for another, and no row counts twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import Sampler

from training.distributed.world import World
from training.encode import IGNORED, Example

BLANK = -1


def blank(pad: int) -> Example:
    """The row that adds nothing."""
    return Example([pad, pad], [IGNORED, IGNORED])


def share(examples: Sequence[Example], world: World, pad: int) -> list[Example]:
    """This process's examples of all; every share has as many."""
    short = -len(examples) % world.size
    return [*examples, *[blank(pad)] * short][world.rank :: world.size]


class Rows(list[dict[str, Any]]):
    """Features by index, and those of the blank row at BLANK."""

    def __init__(self, rows: Sequence[dict[str, Any]], blank: dict[str, Any]) -> None:
        super().__init__(rows)
        self._blank = blank

    def __getitem__(self, index: Any) -> Any:
        return self._blank if index == BLANK else super().__getitem__(index)


class Whole(Sampler[int]):
    """An order of rows, the same in every process, made up with BLANK to whole passes of all of them."""

    def __init__(self, order: Sampler[int], multiple: int) -> None:
        self._order, self._multiple = order, multiple

    def __len__(self) -> int:
        return -(-len(self._order) // self._multiple) * self._multiple  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        count = 0
        for count, index in enumerate(self._order, 1):  # noqa: B007 (counted beyond the loop)
            yield index
        yield from [BLANK] * (len(self) - count)
