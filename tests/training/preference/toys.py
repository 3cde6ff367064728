"""Scorers for tests, named in settings as module:function."""

from __future__ import annotations

from typing import Any


def share_of_e(prompt: str, completion: str, row: dict[str, Any]) -> float:
    """How much of an answer is the letter e."""
    return completion.count("e") / max(len(completion), 1)


def no_number(prompt: str, completion: str, row: dict[str, Any]) -> float:
    return float("nan")


def of_a_key(prompt: str, completion: str, row: dict[str, Any]) -> float:
    return float(row["grade"])
