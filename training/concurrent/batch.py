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

    ids, positions: int64 [tokens]. segments: one for each job. places, labels: int64 [foretold], where a next
    token is to be foretold, and which, job after job; foretold: how many of them each job has.
    """

    ids: Tensor
    positions: Tensor
    segments: tuple[Segment, ...]
    places: Tensor
    labels: Tensor
    foretold: tuple[int, ...]

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
    ids, positions, places, labels = list[int](), list[int](), list[int](), list[int]()
    segments, foretold = [], []
    for examples in rows:
        begin, known = len(ids), len(labels)
        longest = max(len(example.input_ids) for example in examples)
        for example in examples:
            wanted = [
                (at, label) for at, label in enumerate(example.labels[1:], len(ids)) if label != IGNORED
            ]
            places += [at for at, _ in wanted]
            labels += [label for _, label in wanted]
            ids += example.input_ids + [pad] * (longest - len(example.input_ids))
            positions += range(longest)
        segments.append(Segment(begin, len(ids), len(examples)))
        foretold.append(len(labels) - known)
    tensors = [torch.tensor(each, dtype=torch.int64).to(device) for each in (ids, positions, places, labels)]
    return Batch(tensors[0], tensors[1], tuple(segments), tensors[2], tensors[3], tuple(foretold))


def joined(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Neighbours whose rows have one length as one segment, for what keeps rows apart and not jobs."""
    found = [segments[0]]
    for segment in segments[1:]:
        last = found[-1]
        if segment.length == last.length:
            found[-1] = Segment(last.start, segment.end, last.num_rows + segment.num_rows)
        else:
            found.append(segment)
    return tuple(found)


def num_foretold(examples: Sequence[Example]) -> int:
    """Tokens that the loss counts: a row's first has nothing before it."""
    return sum(label != IGNORED for example in examples for label in example.labels[1:])
