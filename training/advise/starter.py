"""Advice as the settings of a run, ready to be trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from training.advise.advice import Advice, offered_tasks
from training.advise.situation import Situation
from training.config import ALL_LINEAR, TrainConfig
from training.errors import TrainingError


class NotOffered(TrainingError):
    """The advice is a task that `lorikeet train` does not do."""


def starter(advice: Advice, situation: Situation, folder: Path = Path()) -> str:
    """The advice as TOML for a file in `folder`, each setting under its reason. Raises `NotOffered`."""
    if advice["task"] not in offered_tasks():
        raise NotOffered(f"`lorikeet train` does not do {advice['task']}: there are no settings to write")
    given: dict[str, dict[str, Any]] = {
        "": {"base": _base(situation, folder), "output": os.path.relpath(situation.output, folder)},
        "data": {"train": os.path.relpath(situation.train, folder), "max_length": situation.row_tokens},
        "lora": {},
        "optim": {},
        "preference": {},
    }
    lines: list[str] = []
    for section, settings in given.items():
        written = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        written += _reasoned(advice, section)
        lines += [f"\n[{section}]"] if section and written else []
        lines += written
    return "\n".join(lines) + "\n"


def _reasoned(advice: Advice, section: str) -> Iterator[str]:
    """The choices of one section, as far as a run has such options."""
    known = {item.name for item in fields(TrainConfig)}
    for choice in advice.choices:
        place, _, name = choice.option.rpartition(".")
        if place == section and (place or name) in known:
            value = choice.value[0] if choice.value == (ALL_LINEAR,) else choice.value
            yield f"# {choice.why} ({choice.rule})"
            yield f"{name} = {json.dumps(value)}"


def _base(situation: Situation, folder: Path) -> str:
    """A folder from where the file stands; a hub's id, or nothing yet, as it is."""
    base = situation.base or ""
    return os.path.relpath(base, folder) if base and Path(base).is_dir() else base
