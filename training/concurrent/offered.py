"""Which settings of a run can be trained beside others; the rest is refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from training.config import TrainConfig
from training.errors import InvalidConfig

OWN = {
    *("base", "output", "quantization", "dtype", "gradient_checkpointing", "threads"),
    *("seed", "log_every", "overwrite"),
}
SECTIONS = {
    "data": {"train", "eval", "eval_fraction", "format", "max_length", "too_long"},
    "lora": {
        *("rank", "alpha", "targets", "rslora", "rank_pattern", "alpha_pattern", "layers_to_transform"),
    },
    "optim": {
        *("learning_rate", "schedule", "warmup_steps", "batch_size", "accumulation", "epochs", "max_steps"),
        *("weight_decay", "clip", "eval_every", "patience"),
    },
}
# Of these settings some values are offered beside the one that they have when left out.
VALUES = {"method": ("lora", "qlora", "rslora"), "optim.optimizer": ("auto", "adamw")}
# What the one base decides for all.
SHARED = ("base", "quantization", "dtype")


def check_offered(config: TrainConfig) -> None:
    """Raises `InvalidConfig` naming every setting that works in a run of its own only."""
    problems = [
        f"{name} = {value!r} is not offered for adapters trained together: run it by itself"
        for name, value in _changed(config)
    ]
    if problems:
        raise InvalidConfig(problems)


def check_shared(configs: Sequence[TrainConfig]) -> None:
    """Raises `InvalidConfig` where runs that are to share a base disagree about it, or share an output."""
    problems = [
        f"{name}: runs that train together have one, not {' and '.join(sorted(values))}"
        for name in SHARED
        if len(values := {str(getattr(config, name)) for config in configs}) > 1
    ]
    outputs = [config.output.resolve() for config in configs]
    problems += [
        f"output: {path} is named by two runs" for path in sorted(set(outputs)) if outputs.count(path) > 1
    ]
    if problems:
        raise InvalidConfig(problems)


def _changed(config: TrainConfig) -> Iterator[tuple[str, Any]]:
    """Settings that are neither offered nor left as they are."""
    plain = TrainConfig()
    for item in fields(config):
        value, usual = getattr(config, item.name), getattr(plain, item.name)
        if is_dataclass(value):
            known = SECTIONS.get(item.name, set())
            for part in fields(value):
                name, inner = f"{item.name}.{part.name}", getattr(value, part.name)
                if part.name not in known and inner not in VALUES.get(name, (getattr(usual, part.name),)):
                    yield name, inner
        elif item.name not in OWN and value not in VALUES.get(item.name, (usual,)):
            yield item.name, value
