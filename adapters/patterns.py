"""Regular expressions from strangers, matched in linear time.

PEFT matches with Python's `re`, which a short pattern can stall for years; RE2 cannot be stalled. Only syntax
that means the same in both is taken, so a pattern never selects here what it did not select in training.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import re2

MAX_PATTERN_LENGTH = 1024
_MAX_PROGRAM_BYTES = 1024 * 1024
# What one engine lacks or reads differently: groups other than (?:, escapes other than the common ones, POSIX
# classes, and {,n} (a repetition to Python, plain text to RE2).
_FOREIGN = re.compile(
    r"\(\?(?!:)|\\[^\x20-\x2f\x3a-\x40\x5b-\x60\x7b-\x7edDwWsSbB]|\[[:\[]|\{,|[^\x20-\x7e]|\\$", re.ASCII
)
_PLAIN = re.compile(r"[\w.]*\Z", re.ASCII)

Matcher = Callable[[str], bool]
# Whether the pattern matched at all, and the layer number it found.
IndexFinder = Callable[[str], tuple[bool, int | None]]


class BadPattern(ValueError):
    """The pattern is too long, not understood, or not portable; the text says which."""


def full_matcher(pattern: str) -> Matcher:
    """A function that tells whether a whole string matches; raises BadPattern."""
    compiled = _compile(_check(pattern), captures=False)
    return lambda text: compiled.fullmatch(text) is not None


def suffix_matcher(pattern: str) -> Matcher:
    """PEFT's rule for rank_pattern and alpha_pattern: the pattern covers the end of a dotted name."""
    compiled = _compile(rf"(.*\.)?({_check(pattern)})$", captures=False)
    # EVA writes one full name per linear; most names end differently, which is cheaper to see first.
    ending = pattern.rpartition(".")[2] if _PLAIN.match(pattern) else ""
    return lambda text: text.endswith(ending) and compiled.match(text) is not None


def index_finder(pattern: str) -> IndexFinder:
    """PEFT's rule for layers_pattern: the first number that follows a part matching `pattern`."""
    return _index_finder(rf"(?:^|.*?\.){_check(pattern)}\.(\d+)\.")


def any_index_finder() -> IndexFinder:
    """PEFT's rule without layers_pattern: the first part of the name that is a number."""
    return _index_finder(r".*?\.[^.]*\.(\d+)\.")


def _index_finder(pattern: str) -> IndexFinder:
    compiled = _compile(pattern)

    def find(text: str) -> tuple[bool, int | None]:
        match = compiled.match(text)
        if match is None:
            return False, None
        # A pattern with a bare '|' can match without reaching the number, as in PEFT.
        number = match.group(compiled.groups)
        return True, None if number is None else int(number)

    return find


def _check(pattern: str) -> str:
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise BadPattern(f"is longer than {MAX_PATTERN_LENGTH} characters")
    if (foreign := _FOREIGN.search(pattern)) is not None:
        raise BadPattern(f"uses {ascii(foreign.group())}, which is not supported")
    _compile(pattern)
    return pattern


def _compile(pattern: str, captures: bool = True) -> Any:
    options = re2.Options()
    options.max_mem = _MAX_PROGRAM_BYTES
    options.log_errors = False
    # Without groups to fill, RE2 runs its fastest automaton.
    options.never_capture = not captures
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise BadPattern(f"is not understood ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    reason = error.args[0] if error.args else "unknown reason"
    return reason.decode("ascii", "replace") if isinstance(reason, bytes) else str(reason)
