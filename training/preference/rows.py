"""JSONL rows of preferences, labels or bare prompts, in the form that TRL takes.

{"prompt": ..., "chosen": ..., "rejected": ...}
{"prompt": ..., "completion": ..., "label": true}
{"prompt": ..., and whatever the scorer reads}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from training.config import DataConfig
from training.data import ROLES, Message, parse_lines, parse_object
from training.errors import InvalidData


@dataclass(frozen=True, slots=True)
class Record:
    """One row and its place in the file, from 1. `value` has all that stands there."""

    line: int
    prompt: tuple[Message, ...]
    value: dict[str, Any]

    @property
    def answers(self) -> dict[str, str]:
        """The row's own answers, by name."""
        return {name: self.value[name] for name in ("chosen", "rejected", "completion") if name in self.value}


def read_records(path: Path, keys: Sequence[str]) -> list[Record]:
    """The rows of a file, each with `keys`. Raises `InvalidData` with every bad line at once."""
    return parse_lines(path, lambda number, line: _record(number, line, keys))


def fitting(
    records: Sequence[Record], measure: Callable[[Record], int], data: DataConfig, path: Path
) -> list[Record]:
    """Those of at most `data.max_length` tokens. Raises `InvalidData` for the others unless they are dropped.

    TRL would cut them off instead.
    """
    over = {record.line: size for record in records if (size := measure(record)) > data.max_length}
    if over and data.too_long == "error":
        advice = f"and data.max_length is {data.max_length}: shorten it, raise that or set too_long"
        raise InvalidData(
            path, [f"line {line}: it is {size} tokens long {advice}" for line, size in over.items()]
        )
    kept = [record for record in records if record.line not in over]
    if not kept:
        raise InvalidData(path, [f"every row is longer than data.max_length = {data.max_length}: raise it"])
    return kept


def split_records(records: Sequence[Record], fraction: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Train and held-out rows; rows of one prompt stay on one side, so nothing leaks."""
    prompts = sorted({json.dumps(record.prompt) for record in records})
    Random(seed).shuffle(prompts)
    held = set(prompts[: min(max(1, round(len(prompts) * fraction)), len(prompts) - 1)])
    sides: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        sides[json.dumps(record.prompt) in held].append(record)
    return sides


def _record(number: int, line: str, keys: Sequence[str]) -> Record:
    value = parse_object(line, f"with {', '.join(keys)}")
    missing = [key for key in keys if key not in value]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing: a row of this task has {', '.join(keys)}")
    for key in keys[1:]:
        if key == "label" and not isinstance(value[key], bool):
            raise ValueError("label must be true or false")
        if key != "label" and not _is_text(value[key]):
            raise ValueError(f"{key} must be text that is not empty")
    if "rejected" in keys and value["chosen"] == value["rejected"]:
        raise ValueError("chosen and rejected are the same: there is nothing to prefer")
    return Record(number, _prompt(value["prompt"]), value)


def _prompt(value: Any) -> tuple[Message, ...]:
    if _is_text(value):
        return ({"role": "user", "content": value},)
    if not isinstance(value, list) or not value:
        raise ValueError("prompt must be text that is not empty, or a list of messages")
    for turn in value:
        if not isinstance(turn, dict) or turn.get("role") not in ROLES or not _is_text(turn.get("content")):
            raise ValueError(f"each message of prompt needs a content and a role of {', '.join(ROLES)}")
    if value[-1]["role"] == "assistant":
        raise ValueError("prompt must end with a turn that is to be answered")
    return tuple({"role": turn["role"], "content": turn["content"]} for turn in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
