"""Records written by hand."""

import math
from array import array
from typing import Any

from loadtests.drive.records import Record


def record(index: int, at: float, *messages: tuple[float, int], **options: Any) -> Record:
    """Messages: seconds after it was due, tokens."""
    asked = options.pop("asked_tokens", sum(count for _, count in messages))
    made = Record(index, "t", "a", 10, asked, at, sent=at)
    made.times = array("d", [at + after for after, _ in messages])
    made.counts = array("I", [count for _, count in messages])
    made.end, made.outcome = made.times[-1] if messages else math.nan, "ok" if messages else "unavailable"
    for name, value in options.items():
        setattr(made, name, value)
    return made
