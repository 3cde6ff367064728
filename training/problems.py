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
        least, most = item.metadata.get("least"), item.metadata.get("most")
        if least is not None:
            entries = value.items() if isinstance(value, Mapping) else [(None, value)]
            for key, entry in entries:
                where = name if key is None else f"{name}[{key!r}]"
                yield from _number_problems(where, entry, least, math.inf if most is None else most)


def _number_problems(name: str, value: float | None, least: float, most: float) -> Iterator[str]:
    if value is None:
        return
    if not value >= least:
        yield f"{name} must be at least {least}, not {value}"
    elif value > most:
        yield f"{name} must be at most {most}, not {value}"
    elif math.isinf(value):
        yield f"{name} must be a finite number, not {value}"


def _missing(config: TrainConfig) -> Iterator[str]:
    if not config.base:
        yield "base is missing: name the folder or hub id of the base model"
    elif _is_path(config.base) and not Path(config.base).is_dir():
        yield f"base: {config.base} is no folder; name one with a model in it, or the id of one on a hub"
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
    steps = config.optim.max_steps
    if steps is not None and config.optim.warmup_steps >= steps:
        yield f"optim.warmup_steps takes all {steps} steps of optim.max_steps: give it fewer"
    if steps is None and config.optim.epochs <= 0:
        yield "optim.epochs must be more than 0 when optim.max_steps is left out"


def _is_path(base: str) -> bool:
    """Whether it can be nothing else: an id is NAME or OWNER/NAME."""
    return base.startswith(("/", "~", ".")) or base.count("/") > 1
