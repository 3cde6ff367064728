"""Checkpoints that a run goes on from: whole, or not there.

.NAME.partial/
    run.json                    whose checkpoints these are
    stage/checkpoint-13/        being written
    checkpoints/checkpoint-12/  weights, optimizer, schedule, random numbers, and a list of all files
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from adapters.files import WEIGHTS_NAME
from training.config import TrainConfig
from training.configfile import dump_config
from training.distributed.world import ALONE, World
from training.errors import InvalidConfig
from training.files import sha256

_FOLDER = "checkpoints"
_STAGE = "stage"
_LIST = "files.json"
_OWNER = "run.json"
# Settings that change neither the weights nor their course.
_IDLE = ("overwrite", "checkpoint_every", "log_every", "threads")


def checkpoint_root(place: Path) -> Path:
    """Where the checkpoints of a run that works in `place` are."""
    return place / _FOLDER


def stage_of(place: Path) -> Path:
    """Where the next checkpoint is written before it counts."""
    return place / _STAGE


def stage(place: Path) -> Path:
    """An empty folder to write the next checkpoint in; what a killed run has left there is gone."""
    folder = stage_of(place)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def commit(place: Path, written: Path) -> Path:
    """Makes a written checkpoint count, also if the power fails on return; returns where it is then."""
    files = [path for path in written.rglob("*") if path.is_file()]
    sizes = {str(path.relative_to(written)): path.stat().st_size for path in files}
    (written / _LIST).write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")
    for path in (*written.rglob("*"), written):
        _sync(path)
    root = checkpoint_root(place)
    root.mkdir(exist_ok=True)
    target = root / written.name
    # One of the same step was torn, or the run would have gone on from there.
    shutil.rmtree(target, ignore_errors=True)
    written.rename(target)
    _sync(root)
    return target


def latest(place: Path) -> Path | None:
    """The last checkpoint that is whole; torn ones are passed over."""
    found = [path for path in checkpoint_root(place).glob("checkpoint-*") if _is_whole(path)]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _is_whole(checkpoint: Path) -> bool:
    try:
        sizes = json.loads((checkpoint / _LIST).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def keep_only(place: Path, kept: Collection[Path]) -> None:
    """Removes all checkpoints but these."""
    for path in checkpoint_root(place).glob("checkpoint-*"):
        if path not in kept:
            shutil.rmtree(path)


def claim(place: Path, config: TrainConfig, world: World = ALONE) -> Path | None:
    """Makes `place` the run's own and returns the checkpoint to go on from, if it has left one there.

    Raises `InvalidConfig` for the checkpoint of a run with other settings or data, unless it may overwrite.
    """
    owner, checkpoint = identity(config, world), latest(place)
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
    for folder in (checkpoint_root(place), stage_of(place)):
        shutil.rmtree(folder, ignore_errors=True)
    (place / _OWNER).unlink()


def identity(config: TrainConfig, world: World = ALONE) -> dict[str, Any]:
    """What makes two runs the same run: settings, processes and the bytes of their files."""
    lines = [line for line in dump_config(config).splitlines() if line.partition(" = ")[0] not in _IDLE]
    lines += [f"processes = {world.size}", f"sharding = {world.sharding}"]
    adapters = (config.init_from, config.preference.reward_model)
    files = [config.data.train, config.data.eval, config.keep.rows]
    files += [folder / WEIGHTS_NAME for folder in adapters if folder]
    return {"settings": lines, "data": [sha256(path) for path in files if path and path.is_file()]}


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
