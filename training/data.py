"""JSONL rows to token ids with a loss mask that covers what the assistant says and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from training.errors import InvalidData

ROLES = ("system", "user", "assistant", "tool")
Message = dict[str, str]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation whose assistant turns are to be learned; `line` is its place in the file, from 1.

    A prompt/completion row is a user turn and an assistant turn; `plain` tells it apart.
    """

    line: int
    messages: tuple[Message, ...]
    plain: bool

    @property
    def prompt(self) -> list[Message]:
        """All but the last assistant turn."""
        return list(self.messages[:-1])

    @property
    def completion(self) -> str:
        """The last assistant turn."""
        return self.messages[-1]["content"]


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSONL file. Raises `InvalidData` with every bad line in it at once."""
    return parse_lines(path, _row)


def parse_lines(path: Path, parse: Callable[[int, str], T]) -> list[T]:
    """What `parse` makes of each line and its number; what it raises is told at once, as `InvalidData`."""
    rows: list[T] = []
    problems: list[str] = []
    for number, line in read_lines(path):
        try:
            rows.append(parse(number, line))
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if not rows and not problems:
        problems.append("the file has no rows: write one JSON object per line")
    if problems:
        raise InvalidData(path, problems)
    return rows


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that are not blank, with their numbers from 1. Raises `InvalidData`."""
    try:
        # Some editors put a mark before the first letter.
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidData(path, [f"the file cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise InvalidData(path, ["the file is not UTF-8 text: save it as UTF-8"]) from error
    # Only line feeds part rows: a JSON string may hold other line separators as they are.
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def parse_object(line: str, form: str) -> dict[str, Any]:
    """The JSON object in a line; `form` says what one looks like. Raises `ValueError`."""
    try:
        value = json.loads(line)
        # An escape may stand for half a letter, of which no tokenizer makes anything.
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("its brackets are nested too deep: write texts, not trees") from error
    except UnicodeEncodeError as error:
        raise ValueError(r"it has half of a letter: an escape from \ud800 to \udfff alone") from error
    if not isinstance(value, dict):
        raise ValueError(f"a row is a JSON object, {form}")
    return value


def split_rows(rows: Sequence[Row], fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Train and held-out rows, at least one of each; equal rows stay on one side, so nothing leaks."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(json.dumps(row.messages), []).append(row)
    order = list(groups.values())
    Random(seed).shuffle(order)
    num_held = min(max(1, round(len(order) * fraction)), len(order) - 1)
    held = [row for group in order[:num_held] for row in group]
    return [row for group in order[num_held:] for row in group], held


def _row(number: int, line: str) -> Row:
    value = parse_object(line, "such as {'prompt': ..., 'completion': ...}")
    if "messages" in value:
        return Row(number, tuple(_messages(value["messages"])), plain=False)
    missing = [key for key in ("prompt", "completion") if key not in value]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing: a row has prompt and completion, or messages")
    for key in ("prompt", "completion"):
        if not isinstance(value[key], str) or not value[key].strip():
            raise ValueError(f"{key} must be text that is not empty")
    turns = (
        {"role": "user", "content": value["prompt"]},
        {"role": "assistant", "content": value["completion"]},
    )
    return Row(number, turns, plain=True)


def _messages(value: Any) -> Iterator[Message]:
    if not isinstance(value, list) or not value:
        raise ValueError("messages must be a list of {'role': ..., 'content': ...}")
    for index, turn in enumerate(value):
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
            raise ValueError(f"messages[{index}] needs a role and a content, both text")
        if turn.get("role") not in ROLES:
            raise ValueError(f"messages[{index}] has role {turn.get('role')!r}: use {', '.join(ROLES)}")
        if turn["role"] == "assistant" and not turn["content"].strip():
            raise ValueError(f"messages[{index}] is an empty assistant turn")
        yield {"role": turn["role"], "content": turn["content"]}
    if value[-1]["role"] != "assistant":
        raise ValueError("the last message must be the assistant's: it is what the row teaches")
    if len(value) == 1:
        raise ValueError("an assistant turn needs a turn before it to answer")
