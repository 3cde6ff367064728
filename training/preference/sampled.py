"""The answers that a run has sampled, kept until its output is there: one that goes on asks no prompt twice.

.NAME.sampled.jsonl
    {"base": ..., "seed": ...}                what they were made from: with anything else they are made again
    {"line": 3, "answers": ["red", "blue"]}   one line a prompt, on the disk before the next is asked
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.durable import append, replace_file, write_all
from adapters.files import CONFIG_NAME, WEIGHTS_NAME
from training.base import read_base
from training.config import TrainConfig
from training.files import sha256
from training.manifest import base_fields, base_folder


@dataclass(frozen=True, slots=True)
class Sampled:
    """`answers` of each prompt that was asked, by the line of its row."""

    path: Path
    answers: dict[int, list[str]]

    def add(self, line: int, answers: Sequence[str]) -> None:
        """Keeps a prompt's answers, also if the power fails on return."""
        self.answers[line] = list(answers)
        fd = append(self.path)
        try:
            write_all(fd, _json({"line": line, "answers": self.answers[line]}))
            os.fsync(fd)
        finally:
            os.close(fd)


def take_up(config: TrainConfig) -> Sampled:
    """What an earlier try has left, if it was made from the same. Raises `InvalidBase`."""
    read_base(config.base)
    path, mine = _path(config), _made_from(config)
    first, *lines = _whole_lines(path) or [None]
    kept = lines if first == mine else []
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, b"".join(map(_json, (mine, *kept))))
    return Sampled(path, {line["line"]: line["answers"] for line in kept})


def drop(config: TrainConfig) -> None:
    """Removes what was kept for going on."""
    _path(config).unlink()


def _path(config: TrainConfig) -> Path:
    return config.output.with_name(f".{config.output.name}.sampled.jsonl")


def _made_from(config: TrainConfig) -> dict[str, Any]:
    """All that answers depend on."""
    wanted = config.preference
    return {
        "base": [config.base, config.dtype, base_fields(config.base, config.quantization)],
        "files": {str(path): sha256(path) for path in _files(config) if path.is_file()},
        "format": config.data.format,
        "num_generations": wanted.num_generations,
        "max_completion_length": wanted.max_completion_length,
        "temperature": wanted.temperature,
        "seed": config.seed,
    }


def _files(config: TrainConfig) -> Iterator[Path]:
    yield config.data.train
    # Where a base says how else it is sampled.
    yield base_folder(config.base) / "generation_config.json"
    if config.init_from is not None:
        yield config.init_from / CONFIG_NAME
        yield config.init_from / WEIGHTS_NAME


def _whole_lines(path: Path) -> list[Any]:
    """The values of its lines, up to one that a killed run has not written to its end."""
    values: list[Any] = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            values.append(json.loads(line))
        except ValueError:
            break
    return values


def _json(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"
