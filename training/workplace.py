"""The folder that a run works in, which becomes its output once it is complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from training.checkpoints import claim, latest, release
from training.config import TrainConfig
from training.distributed.world import World
from training.errors import Interrupted, InvalidConfig, TrainingError


def workplace_of(config: TrainConfig) -> Path:
    """Where the run works; its checkpoints survive there."""
    return config.output.with_name(f".{config.output.name}.partial")


def finish(place: Path, config: TrainConfig) -> None:
    """Puts what was made in the place of the output."""
    release(place)
    shutil.rmtree(config.output, ignore_errors=True)
    place.rename(config.output)


def check_output(config: TrainConfig) -> None:
    """Raises `InvalidConfig` for an output that may not be replaced."""
    output = config.output
    if output.exists() and not output.is_dir():
        raise InvalidConfig([f"output: {output} is a file; name a folder"])
    for name, path in _inputs(config).items():
        if path is not None and path.exists() and path.resolve().is_relative_to(output.resolve()):
            raise InvalidConfig([f"output: {output} holds {name} of this run: name a folder of its own"])
    if output.is_dir() and any(output.iterdir()) and not config.overwrite:
        raise InvalidConfig([f"output: {output} is not empty; name another folder or set overwrite = true"])


def _inputs(config: TrainConfig) -> dict[str, Path | None]:
    return {
        "base": Path(config.base),
        "data.train": config.data.train,
        "data.eval": config.data.eval,
        "keep.rows": config.keep.rows,
        "init_from": config.init_from,
        "preference.reward_model": config.preference.reward_model,
    }


@contextmanager
def workplace(place: Path, config: TrainConfig, world: World) -> Iterator[Path | None]:
    """The run's own folder to work in, with the checkpoint that an earlier try has left there, if it has.

    A run that is stopped or breaks down leaves its checkpoints; one that cannot go on leaves nothing.
    """
    checkpoint = world.of_first(claim(place, config, world) if world.is_first else None)
    try:
        yield checkpoint
    except Interrupted:
        raise
    except BaseException as error:
        if world.is_first and (isinstance(error, TrainingError) or latest(place) is None):
            shutil.rmtree(place, ignore_errors=True)
        raise


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Torch's CPU threads set to `count` for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
