"""A job's rows, read and encoded as for a run of its own."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from training.config import TrainConfig
from training.data import read_rows, split_rows
from training.encode import Example, encode_rows
from training.errors import InvalidData


@dataclass(frozen=True, slots=True)
class Rows:
    """What is trained on, and what is held out."""

    train: list[Example]
    held: list[Example]


def read(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> Rows:
    """Raises `InvalidData` with every bad line of a file at once."""
    data = config.data
    rows, held = read_rows(data.train), read_rows(data.eval) if data.eval else []
    if data.eval_fraction:
        if len(rows) < 2:
            raise InvalidData(data.train, ["one row cannot be split: add rows or drop data.eval_fraction"])
        rows, held = split_rows(rows, data.eval_fraction, config.seed)
    return Rows(
        train=encode_rows(rows, tokenizer, data, data.train),
        held=encode_rows(held, tokenizer, data, data.eval or data.train) if held else [],
    )
