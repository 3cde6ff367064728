"""What one pass carries: the rows of several jobs, end to end.

job 0                job 1
row row row (padded) row row (padded)        tokens of a job are one segment, its rows of one length
[0 ......... 3 x 9)  [27 ........ 27 + 2 x 5)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.encode import IGNORED, Example
from training.evaluate import padded


@dataclass(frozen=True, slots=True)
class Segment:
    """One job's tokens [start, end), which are `num_rows` rows of one length."""

    start: int
    end: int
    num_rows: int

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return (self.end - self.start) // self.num_rows


@dataclass(frozen=True, slots=True)
class Batch:
    """The tokens of a pass.

    ids, positions: int64 [tokens]. segments: one for each job. places, labels: int64, for each job, where in
    its segment a next token is to be foretold, and which.
    """

    ids: Tensor
    positions: Tensor
    segments: tuple[Segment, ...]
    places: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]

    @property
    def sizes(self) -> list[int]:
        """Tokens of each segment."""
        return [segment.end - segment.start for segment in self.segments]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(segment.length for segment in self.segments)


def make_batch(rows: Sequence[Sequence[Example]], pad: int, device: torch.device) -> Batch:
    """`rows` holds the examples of each job; a job's are padded to its own longest, whoever else is there."""
    ids, positions, segments, places, labels = [], [], [], [], []
    start = 0
    for examples in rows:
        tokens, wanted, _ = padded(examples, pad)
        place, label = _foretold(wanted)
        ids.append(tokens.flatten())
        positions.append(torch.arange(tokens.shape[1]).repeat(len(examples)))
        segments.append(Segment(start, start + tokens.numel(), len(examples)))
        places.append(place.to(device))
        labels.append(label.to(device))
        start += tokens.numel()
    return Batch(
        torch.cat(ids).to(device),
        torch.cat(positions).to(device),
        tuple(segments),
        tuple(places),
        tuple(labels),
    )


def num_foretold(examples: Sequence[Example]) -> int:
    """Tokens that the loss counts: a row's first has nothing before it."""
    return sum(label != IGNORED for example in examples for label in example.labels[1:])


def _foretold(labels: Tensor) -> tuple[Tensor, Tensor]:
    """labels [rows, length] -> where the next token counts, in the flattened rows, and the token."""
    following = torch.full_like(labels, IGNORED)
    following[:, :-1] = labels[:, 1:]
    flat = following.flatten()
    places = (flat != IGNORED).nonzero().flatten()
    return places, flat[places]
