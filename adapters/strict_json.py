"""JSON from strangers: bounded depth, no duplicate keys, no NaN or infinity, one kind of error."""

from __future__ import annotations

import json
import math
import re
from functools import partial
from typing import Any

from adapters.errors import InvalidAdapter

# Nothing in an adapter counts past 2**63; longer digits would only buy quadratic conversion time.
MAX_DIGITS = 20
# A string, an opening or a closing bracket: enough to measure depth without building a single object.
# Possessive, with an optional closing quote: no string, not even an unfinished one, is scanned twice.
_MARK = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def parse_object(raw: bytes, what: str, max_depth: int, max_digits: int = MAX_DIGITS) -> dict[str, Any]:
    """Parses `raw` as one JSON object at most `max_depth` deep; raises InvalidAdapter naming `what`."""
    if _depth(raw) > max_depth:
        raise InvalidAdapter([f"{what} nests deeper than {max_depth} levels"])
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_int=partial(_parse_int, max_digits),
            parse_float=_parse_float,
        )
    except (ValueError, RecursionError) as error:
        raise InvalidAdapter([f"{what} is not valid JSON: {ascii(str(error))[1:-1]}"]) from error
    if not isinstance(value, dict):
        raise InvalidAdapter([f"{what} must hold a JSON object"])
    return value


def show(value: object) -> str:
    """A short, printable, ASCII form of something a stranger wrote."""
    shown = ascii(value)
    return shown if len(shown) <= 100 else shown[:97] + "..."


def _depth(raw: bytes) -> int:
    depth = deepest = 0
    for mark in _MARK.finditer(raw):
        token = mark.group()
        if token in (b"{", b"["):
            depth += 1
            deepest = max(deepest, depth)
        elif token in (b"}", b"]"):
            depth -= 1
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {show(key)} appears twice")
        found[key] = value
    return found


def _parse_int(max_digits: int, text: str) -> int:
    if len(text) > max_digits:
        raise ValueError("a number is too long")
    return int(text)


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{show(text)} is beyond the largest number")
    return value


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")
