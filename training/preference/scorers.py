"""What an answer is worth: a rule, a function of the user's, or a reward model that was trained before."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from training.config import TrainConfig
from training.errors import InvalidConfig, TrainingError
from training.preference.rows import Record

# Of as many records and answers, side by side.
Scorer = Callable[[Sequence[Record], Sequence[str]], list[float]]
Rule = Callable[[Record, str], float]


class InvalidScore(TrainingError):
    """A scorer cannot say what an answer is worth."""


@dataclass(frozen=True, slots=True)
class EachByRule:
    """A scorer that looks at one answer at a time."""

    name: str
    rule: Rule

    def __call__(self, records: Sequence[Record], answers: Sequence[str]) -> list[float]:
        return [self._score(record, answer) for record, answer in zip(records, answers, strict=True)]

    def _score(self, record: Record, answer: str) -> float:
        try:
            score = self.rule(record, answer)
        except Exception as error:
            what = f"raised {type(error).__name__}: {error}"
            raise InvalidScore(f"preference.scorer {self.name} {what}; the row was {record.value}") from error
        if not isinstance(score, int | float) or not math.isfinite(score):
            raise InvalidScore(f"preference.scorer {self.name} returned {score!r}: return a finite number")
        return float(score)


def rule_scorer(config: TrainConfig, records: Sequence[Record]) -> Scorer:
    """The run's rule or function, if it can score all of `records`. Raises `InvalidConfig`."""
    name = config.preference.scorer
    assert name is not None
    kind, colon, argument = name.partition(":")
    if kind == "exact" and not colon:
        return EachByRule(name, _exact(records))
    if not argument:
        raise InvalidConfig(
            [f"preference.scorer {name!r} is none of exact, regex:, length:, module:function"]
        )
    makers: dict[str, Callable[[str], Rule]] = {"regex": _regex, "length": _length}
    maker = makers.get(kind)
    return EachByRule(name, maker(argument) if maker else _function(kind, argument))


def _exact(records: Sequence[Record]) -> Rule:
    lacking = [record.line for record in records if not isinstance(record.value.get("answer"), str)]
    if lacking:
        raise InvalidConfig(
            [f"preference.scorer exact compares with the row's answer: line {lacking[0]} has no such text"]
        )
    return lambda record, answer: float(answer.strip() == record.value["answer"].strip())


def _regex(pattern: str) -> Rule:
    try:
        found = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise InvalidConfig([f"preference.scorer: {pattern!r} is no regular expression: {error}"]) from error
    return lambda record, answer: float(found.search(answer) is not None)


def _length(characters: str) -> Rule:
    """1 at so many characters, 0 at none and at twice as many."""
    if not characters.isdigit() or int(characters) == 0:
        raise InvalidConfig([f"preference.scorer: length:{characters} needs a number of characters above 0"])
    wanted = int(characters)
    return lambda record, answer: max(0.0, 1 - abs(len(answer) - wanted) / wanted)


def _function(module: str, name: str) -> Rule:
    try:
        function: Any = getattr(import_module(module), name)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise InvalidConfig([f"preference.scorer {module}:{name} cannot be imported: {what}"]) from error
    if not callable(function):
        raise InvalidConfig([f"preference.scorer {module}:{name} is no function"])
    return lambda record, answer: function(
        prompt=record.prompt[-1]["content"], completion=answer, row=record.value
    )
