"""The whole configuration of a training run: one frozen dataclass with three sections, read from TOML.

Every field carries its help text, so flags and documentation are read from here and cannot drift.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ALL_LINEAR = "all-linear"


def option(help_text: str, default: Any, *, choices: tuple[str, ...] = (), least: float | None = None) -> Any:
    """A field with its help text, its choices and the least value that it may have."""
    return field(default=default, metadata={"help": help_text, "choices": choices, "least": least})


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Which rows are trained on, which are held out, and how a row becomes tokens."""

    train: Path = option("JSONL file of prompt/completion or messages rows to train on (required)", Path())
    eval: Path | None = option("JSONL file of held-out rows; without one, eval_fraction is split off", None)
    eval_fraction: float = option(
        "share of the train rows to hold out when there is no eval file", 0.0, least=0
    )
    format: str = option(
        "chat uses the base's chat template, plain joins prompt and completion, auto prefers chat",
        "auto",
        choices=("auto", "chat", "plain"),
    )
    max_length: int = option("longest row in tokens", 1024, least=2)
    too_long: str = option("what a row over max_length does", "error", choices=("error", "drop"))


@dataclass(frozen=True, slots=True)
class LoraSection:
    """The shape of the adapter."""

    rank: int = option("rank of every low-rank pair", 16, least=1)
    alpha: float = option("scale: a pair counts alpha/rank, or alpha/sqrt(rank) with rslora", 32.0, least=0)
    dropout: float = option("dropout on the adapter's input while training", 0.0, least=0)
    targets: tuple[str, ...] = option(
        "names of the linears to adapt; all-linear stands for every linear but the output head", (ALL_LINEAR,)
    )
    rslora: bool = option("scale by the square root of the rank", False)
    rank_pattern: dict[str, int] | None = option("rank by name pattern, where it differs", None)
    alpha_pattern: dict[str, float] | None = option("alpha by name pattern, where it differs", None)
    layers_to_transform: tuple[int, ...] | None = option("layer indices to adapt; all when left out", None)


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """How long and how hard to train."""

    learning_rate: float = option("peak learning rate", 2e-4, least=0)
    schedule: str = option(
        "course of the learning rate after warm-up", "cosine", choices=("cosine", "linear", "constant")
    )
    warmup_steps: int = option("steps of linear warm-up", 0, least=0)
    batch_size: int = option("rows in one forward pass, per device", 8, least=1)
    accumulation: int = option("forward passes that one step gathers", 1, least=1)
    epochs: float = option("passes over the train rows; max_steps wins when given", 1.0, least=0)
    max_steps: int | None = option("optimizer steps to take instead of counting epochs", None, least=1)
    weight_decay: float = option("decoupled weight decay", 0.0, least=0)
    clip: float = option("largest gradient norm; 0 leaves gradients as they are", 1.0, least=0)
    eval_every: int | None = option("steps between evaluations; once per epoch when left out", None, least=1)
    patience: int | None = option("evaluations without a better loss before stopping early", None, least=1)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One training run. Paths in a TOML file are relative to that file."""

    base: str = option("folder or hub id of the base model (required)", "")
    output: Path = option("folder that becomes the adapter (required)", Path())
    data: DataConfig = field(default=DataConfig(), metadata={"help": "the rows"})
    lora: LoraSection = field(default=LoraSection(), metadata={"help": "the adapter"})
    optim: OptimConfig = field(default=OptimConfig(), metadata={"help": "the optimizer"})
    quantization: str = option(
        "none trains on the base as it is, nf4 on its 4-bit codes (QLoRA)", "none", choices=("none", "nf4")
    )
    dtype: str = option(
        "number format of the base; auto is bfloat16 on a GPU that has it and float32 elsewhere",
        "auto",
        choices=("auto", "float32", "bfloat16"),
    )
    gradient_checkpointing: bool = option("recompute activations to save memory", False)
    threads: int | None = option("CPU threads to use; torch's own choice when left out", None, least=1)
    seed: int = option("decides the adapter's start, the split and the order of rows", 0, least=0)
    log_every: int = option("steps between two lines of metrics", 10, least=1)
    overwrite: bool = option("replace what stands in the output folder", False)
