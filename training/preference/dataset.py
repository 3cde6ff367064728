"""Records as the data sets that TRL reads, chats as messages and plain rows as text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from training.config import TrainConfig
from training.encode import resolve_format
from training.errors import InvalidConfig, InvalidData
from training.preference.config import TASKS
from training.preference.rows import Record, fitting, read_records, split_records

# Where a data set keeps the row as it stands in the file, for scorers.
ROW = "row"


class Script:
    """How prompts and answers are written for one base: by its chat template, or as they are."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, wanted: str) -> None:
        self.tokenizer = tokenizer
        self.is_chat = resolve_format(tokenizer, wanted) == "chat"

    def prompt(self, record: Record) -> Any:
        return list(record.prompt) if self.is_chat else record.prompt[-1]["content"]

    def answer(self, text: str) -> Any:
        return [{"role": "assistant", "content": text}] if self.is_chat else text

    def opening(self, record: Record) -> str:
        """What the base is given to go on from."""
        if not self.is_chat:
            return record.prompt[-1]["content"]
        return str(
            self.tokenizer.apply_chat_template(
                list(record.prompt), tokenize=False, add_generation_prompt=True
            )
        )

    def ids(self, record: Record, answer: str | None = None) -> list[int]:
        """Of the prompt, or of the whole that `answer` makes with it, its end included."""
        if answer is None:
            text = self.opening(record)
        elif self.is_chat:
            turns = [*record.prompt, *self.answer(answer)]
            text = str(self.tokenizer.apply_chat_template(turns, tokenize=False))
        else:
            text = self.opening(record) + answer + str(self.tokenizer.eos_token)
        ids: list[int] = self.tokenizer(text, add_special_tokens=not self.is_chat)["input_ids"]
        return ids

    def longest(self, record: Record) -> int:
        """Tokens of the row with the longer of its answers."""
        answers: list[str | None] = [*record.answers.values()] or [None]
        return max(len(self.ids(record, answer)) for answer in answers)


def read_sides(config: TrainConfig, script: Script) -> tuple[list[Record], list[Record]]:
    """Train and held-out rows that fit. Raises `InvalidData`."""
    data = config.data
    train = read_fitting(config, script, data.train)
    if data.eval:
        return train, read_fitting(config, script, data.eval)
    return split_records(train, data.eval_fraction, config.seed) if data.eval_fraction else (train, [])


def read_fitting(config: TrainConfig, script: Script, path: Path) -> list[Record]:
    """The rows of a file for the run's task. Raises `InvalidData`, `InvalidConfig`."""
    records = read_records(path, TASKS[config.task].rows)
    turns = [
        record.line for record in records if len(record.prompt) > 1 or record.prompt[0]["role"] != "user"
    ]
    if turns and not script.is_chat:
        raise InvalidData(path, [f"line {line}: messages need a base with a chat template" for line in turns])
    kept = fitting(records, script.longest, config.data, path)
    labels = {record.value["label"] for record in kept if "label" in record.value}
    if config.task == "kto" and path == config.data.train and len(labels) == 1:
        raise InvalidConfig([f"{path} has one label only: task kto needs rows with true and rows with false"])
    return kept


def as_dataset(records: Sequence[Record], script: Script, keys: Sequence[str]) -> datasets.Dataset:
    """The columns of `keys`, and the row itself for scorers."""
    return datasets.Dataset.from_list([dict(_columns(record, script, keys)) for record in records])


@contextmanager
def no_bars() -> Iterator[None]:
    """No bars by datasets for a while."""
    were_hidden = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_hidden:
            datasets.enable_progress_bars()


def _columns(record: Record, script: Script, keys: Sequence[str]) -> Iterator[tuple[str, Any]]:
    yield "prompt", script.prompt(record)
    for key in keys[1:]:
        value = record.value[key]
        yield key, value if key == "label" else script.answer(value)
    if len(keys) == 1:
        yield ROW, json.dumps(record.value)
