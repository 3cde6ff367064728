"""What is wrong with the settings of a run, one sentence each, before anything is read or loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.evaluation.config import evaluation_problems
from training.idle import idle_problems
from training.methods.settle import method_problems
from training.option import sections
from training.preference.rules import task_problems

if TYPE_CHECKING:
    from training.config import TrainConfig


def config_problems(config: TrainConfig) -> Iterator[str]:
    """Required fields left out, values out of range, fields that disagree or that nothing reads."""
    for section, prefix in sections(config):
        yield from _range_problems(section, prefix)
    has_held_out = bool(config.data.eval or config.data.eval_fraction)
    yield from _missing(config)
    yield from _share_problems(config)
    yield from evaluation_problems(config.evaluation, has_held_out)
    yield from _length_problems(config, has_held_out)
    yield from idle_problems(config)
    yield from method_problems(config)
    yield from task_problems(config)


def _range_problems(section: Any, prefix: str) -> Iterator[str]:
    for item in fields(section):
        value, name = getattr(section, item.name), f"{prefix}{item.name}"
        choices, refused = item.metadata.get("choices"), item.metadata.get("refused") or {}
        if refused and value in refused:
            yield f"{name} {value!r} is not offered: {refused[value]}"
        elif choices and value not in choices:
            yield f"{name} must be {' or '.join(choices)}, not {value!r}"
        yield from _number_problems(name, value, item.metadata.get("least"))


def _number_problems(name: str, value: Any, least: float | None) -> Iterator[str]:
    """Of one number, or of each in a table."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _number_problems(f"{name}[{key!r}]", entry, least)
    elif least is not None and value is not None:
        if not value >= least:
            yield f"{name} must be at least {least}, not {value}"
        elif math.isinf(value):
            yield f"{name} must be a finite number, not {value}"


def _missing(config: TrainConfig) -> Iterator[str]:
    if not config.base:
        yield "base is missing: name the folder or hub id of the base model"
    if config.output == Path():
        yield "output is missing: name the folder that becomes the adapter"
    if config.data.train == Path():
        yield "data.train is missing: name the JSONL file to train on"


def _share_problems(config: TrainConfig) -> Iterator[str]:
    if config.data.eval and config.data.eval_fraction:
        yield "data.eval and data.eval_fraction exclude each other: keep one"
    if config.data.eval_fraction >= 1 or config.lora.dropout >= 1:
        yield "data.eval_fraction and lora.dropout are shares below 1"


def _length_problems(config: TrainConfig, has_held_out: bool) -> Iterator[str]:
    if config.optim.patience and not has_held_out:
        yield "optim.patience needs held-out rows: give data.eval or data.eval_fraction"
    if config.optim.max_steps is None and config.optim.epochs <= 0:
        yield "optim.epochs must be more than 0 when optim.max_steps is left out"
