"""Rows to batches: rows of like length share one, in an order that the seed and the epoch decide alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from training.encode import Example
from training.evaluate import padded
from training.fast.loss import fast_batch


class LengthGrouped(Sampler[int]):
    """Indices of all rows in the order of `epoch`; a run that goes on finds the order that it has left."""

    def __init__(self, examples: Sequence[Example], batch_size: int, seed: int) -> None:
        self._lengths = [len(example.input_ids) for example in examples]
        self._batch_size = batch_size
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self.epoch)
        return iter(get_length_grouped_indices(self._lengths, self._batch_size, generator=generator))


def features(example: Example) -> dict[str, list[int]]:
    """A row as Trainer's dataset has it."""
    return {"input_ids": example.input_ids, "labels": example.labels}


def collated(rows: Sequence[dict[str, list[int]]], pad: int, fast: bool = False) -> dict[str, Tensor]:
    """A batch as the model takes it: int64 (rows, longest) each; `fast` adds which rows have a loss."""
    ids, labels, mask = padded([Example(row["input_ids"], row["labels"]) for row in rows], pad)
    batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    return fast_batch(batch) if fast else batch
