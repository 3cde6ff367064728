"""The check of a PEFT folder against the base: what is served is exact, and every problem is named at once.

names    every tensor is the A or B of exactly one targeted linear, and every target has both
shapes   A: [rank, in_features], B: [out_features, rank]
numbers  all finite, and no entry of scale * B A can exceed MAX_DELTA
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from adapters.errors import InvalidAdapter
from adapters.files import (
    CONFIG_NAME,
    FILE_NAMES,
    OPTIONAL_FILES,
    WEIGHTS_NAME,
    open_regular,
    size_and_sha256,
)
from adapters.header import TensorInfo, read_header
from adapters.manifest import BaseShapes, FileSpec, Manifest, content_digest
from adapters.numeric import max_magnitude
from adapters.peft_config import LoraConfig, read_config
from adapters.strict_json import show
from adapters.targets import Target, find_targets

KIND = "lora"
PREFIX = "base_model.model."
# Trained updates stay below 1 per entry; a million is far beyond use and far from overflowing bfloat16.
MAX_DELTA = 1e6

T = TypeVar("T")


def inspect(folder: Path, base: BaseShapes, max_rank: int, *, allow_extra: bool = False) -> Manifest:
    """Checks the PEFT folder and returns its manifest; raises InvalidAdapter with every problem.

    `allow_extra` tolerates files beside the adapter's two, such as the model card of a training run.
    """
    problems = _check_files(folder, allow_extra)
    if problems:
        raise InvalidAdapter(problems)
    config = _gather(lambda: read_config(folder / CONFIG_NAME, max_rank), problems)
    with open_regular(folder / WEIGHTS_NAME) as fd:
        tensors = _gather(lambda: read_header(fd), problems)
        if config is None or tensors is None:
            raise InvalidAdapter(problems)
        targets = find_targets(config, base.linears)
        _check_tensors(tensors, targets, base, problems)
        if not problems:
            _check_numbers(fd, tensors, targets, problems)
        if problems:
            raise InvalidAdapter(problems)
        weights = FileSpec(WEIGHTS_NAME, *size_and_sha256(fd))
    others = [_describe(folder / name) for name in OPTIONAL_FILES if (folder / name).exists()]
    return _manifest(config, tensors, targets, (_describe(folder / CONFIG_NAME), weights, *others))


def pair_names(linear: str) -> tuple[str, str]:
    """The names of a linear's A and B in the file."""
    return f"{PREFIX}{linear}.lora_A.weight", f"{PREFIX}{linear}.lora_B.weight"


def _check_files(folder: Path, allow_extra: bool) -> list[str]:
    try:
        present = set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return [f"{folder} is no folder"]
    extra = set() if allow_extra else present.difference(FILE_NAMES, OPTIONAL_FILES)
    missing = [f"{name} is missing" for name in FILE_NAMES if name not in present]
    return missing + [f"{show(name)} is no part of an adapter" for name in sorted(extra)]


def _gather(read: Callable[[], T], problems: list[str]) -> T | None:
    try:
        return read()
    except InvalidAdapter as error:
        problems.extend(error.problems)
        return None


def _describe(path: Path) -> FileSpec:
    with open_regular(path) as fd:
        return FileSpec(path.name, *size_and_sha256(fd))


def _check_tensors(
    tensors: dict[str, TensorInfo], targets: dict[str, Target], base: BaseShapes, problems: list[str]
) -> None:
    if not targets:
        problems.append(
            "target_modules matches no linear of this base; was the adapter trained on another base?"
        )
    unclaimed = set(tensors)
    for linear, target in targets.items():
        out_features, in_features = base.linears[linear]
        shapes = (target.rank, in_features), (out_features, target.rank)
        for name, shape in zip(pair_names(linear), shapes, strict=True):
            unclaimed.discard(name)
            if name not in tensors:
                problems.append(f"tensor {show(name)} is missing although {CONFIG_NAME} targets {linear}")
            elif tensors[name].shape != shape:
                problems.append(
                    f"tensor {show(name)} has shape {tensors[name].shape}, this base needs {shape}"
                )
    problems.extend(
        f"tensor {show(name)} belongs to no targeted linear of this base" for name in sorted(unclaimed)
    )


def _check_numbers(
    fd: int, tensors: dict[str, TensorInfo], targets: dict[str, Target], problems: list[str]
) -> None:
    for linear, target in targets.items():
        a, b = (max_magnitude(fd, tensors[name]) for name in pair_names(linear))
        if math.isnan(a) or math.isnan(b):
            problems.append(f"the weights of {linear} hold NaN or infinity; was the training run diverging?")
        elif not a * b * target.scale * target.rank <= MAX_DELTA:
            problems.append(
                f"the weights of {linear} are too large to be a trained update (bound {MAX_DELTA:g})"
            )


def _manifest(
    config: LoraConfig,
    tensors: dict[str, TensorInfo],
    targets: dict[str, Target],
    files: tuple[FileSpec, ...],
) -> Manifest:
    dtypes = {info.dtype for info in tensors.values()}
    return Manifest(
        digest=content_digest(files),
        files=files,
        kind=KIND,
        rank=max(target.rank for target in targets.values()),
        num_parameters=sum(math.prod(info.shape) for info in tensors.values()),
        targets=targets,
        base_model_name=config.base_model_name,
        dtype=dtypes.pop() if len(dtypes) == 1 else "mixed",
    )
