"""Checkpoints that a run goes on from: one counts once its seal is written, and until then it is not there.

.NAME.partial/
    run.json                    whose checkpoints these are
    checkpoints/checkpoint-12/  weights, optimizer, schedule, random numbers, and `complete`, written last
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from training.config import TrainConfig
from training.configfile import dump_config
from training.errors import InvalidConfig
from training.files import sha256

_FOLDER = "checkpoints"
_SEAL = "complete"
_OWNER = "run.json"
# Settings that change neither the weights nor their course.
_IDLE = ("overwrite", "checkpoint_every", "log_every", "threads")


def checkpoint_root(place: Path) -> Path:
    """Where the checkpoints of a run that works in `place` are."""
    return place / _FOLDER


def seal(checkpoint: Path) -> None:
    """Makes a written checkpoint count, even if the power fails now."""
    for path in checkpoint.iterdir():
        _sync(path)
    (checkpoint / _SEAL).touch()
    _sync(checkpoint / _SEAL)
    _sync(checkpoint)
    _sync(checkpoint.parent)


def latest(place: Path) -> Path | None:
    """The last checkpoint that is complete."""
    found = [path for path in checkpoint_root(place).glob("checkpoint-*") if (path / _SEAL).exists()]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def keep_only(place: Path, kept: Collection[Path]) -> None:
    """Removes all checkpoints but these."""
    for path in checkpoint_root(place).glob("checkpoint-*"):
        if path not in kept:
            shutil.rmtree(path)


def claim(place: Path, config: TrainConfig) -> Path | None:
    """Makes `place` the run's own and returns the checkpoint to go on from, if it has left one there.

    Raises `InvalidConfig` for the checkpoint of a run with other settings or data, unless it may overwrite.
    """
    owner, checkpoint = identity(config), latest(place)
    if checkpoint is not None:
        changed = _changed(owner, json.loads((place / _OWNER).read_text(encoding="utf-8")))
        if not changed:
            return checkpoint
        if not config.overwrite:
            raise InvalidConfig(
                [
                    f"{place} has a checkpoint of a run that differs in {', '.join(changed)}: restore that "
                    "to go on, or delete the folder to start afresh"
                ]
            )
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / _OWNER).write_text(json.dumps(owner, indent=2) + "\n", encoding="utf-8")
    return None


def release(place: Path) -> None:
    """Takes all out of `place` that is there for going on alone."""
    shutil.rmtree(checkpoint_root(place), ignore_errors=True)
    (place / _OWNER).unlink()


def identity(config: TrainConfig) -> dict[str, Any]:
    """What makes two runs the same run: settings and the bytes of their files."""
    lines = [line for line in dump_config(config).splitlines() if line.partition(" = ")[0] not in _IDLE]
    files = (config.data.train, config.data.eval, config.keep.rows)
    return {"settings": lines, "data": [sha256(path) for path in files if path]}


def _changed(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    settings = set(mine["settings"]) ^ set(theirs["settings"])
    names = {line.partition(" = ")[0] for line in settings}
    return sorted(names) + (["its data"] if mine["data"] != theirs["data"] else [])


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
