"""Rows that are there twice, and rows to train on that are held out as well."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from training.data import Row


def exact(row: Row) -> str:
    """What two equal rows have in common."""
    return repr([sorted(message.items()) for message in row.messages])


def normalised(row: Row) -> str:
    """The same for rows that differ in case, blanks, punctuation or the form of their characters alone."""
    return "\n".join(f"{message['role']}: {_plain(message['content'])}" for message in row.messages)


def question(row: Row) -> str:
    """What is asked, normalised, without the answer."""
    return "\n".join(_plain(message["content"]) for message in row.prompt)


def repeated(rows: Iterable[Row], *, loosely: bool) -> list[tuple[int, int]]:
    """Lines that repeat an earlier line, each with that one."""
    first: dict[str, int] = {}
    found = []
    for row in rows:
        line = first.setdefault(normalised(row) if loosely else exact(row), row.line)
        if line != row.line:
            found.append((row.line, line))
    return found


def leaked(train: Sequence[Row], held: Sequence[Row], *, questions: bool) -> list[tuple[int, int]]:
    """Held-out lines whose row, or whose question alone, is trained on; each with that line."""
    key = question if questions else normalised
    trained = {key(row): row.line for row in reversed(train)}
    return [(row.line, trained[key(row)]) for row in held if key(row) in trained]


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[^\w\s]", " ", folded).split())
