"""The whole configuration of a training run: one frozen dataclass with its sections, read from TOML.

Every field carries its help text, so flags and documentation are read from here and cannot drift.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from training.evaluation.config import EvaluationConfig
from training.methods.table import METHODS, REFUSED
from training.option import option as option
from training.preference.config import REFUSED_TASKS, SFT, TASKS, PreferenceSection

ALL_LINEAR = "all-linear"
# What no server takes more of.
MAX_RANK = 4096


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

    rank: int = option("rank of every low-rank pair", 16, least=1, most=MAX_RANK)
    alpha: float = option("scale: a pair counts alpha/rank, or alpha/sqrt(rank) with rslora", 32.0, least=0)
    dropout: float = option("dropout on the adapter's input while training", 0.0, least=0)
    targets: tuple[str, ...] = option(
        "names of the linears to adapt; all-linear stands for every linear but the output head", (ALL_LINEAR,)
    )
    rslora: bool = option("scale by the square root of the rank", False)
    dora: bool = option("train a magnitude for every output beside the pair", False)
    init: str = option(
        "where the pair starts: default leaves the base as it is; pissa and olora start from the base's own "
        "directions and are converted back on saving, loftq from what nf4 loses, eva from the data",
        "default",
        choices=("default", "pissa", "olora", "loftq", "eva"),
    )
    eva_rho: float = option("how far eva may raise one linear's rank at the cost of others", 1.0, least=1)
    rank_pattern: dict[str, int] | None = option(
        "rank by name pattern, where it differs", None, least=1, most=MAX_RANK
    )
    alpha_pattern: dict[str, float] | None = option("alpha by name pattern, where it differs", None, least=0)
    layers_to_transform: tuple[int, ...] | None = option("layer indices to adapt; all when left out", None)


@dataclass(frozen=True, slots=True)
class AdaLoraSection:
    """How AdaLoRA goes from its first ranks down to lora.rank a linear on average."""

    start_rank: int | None = option(
        "rank at the start; one and a half times lora.rank when left out", None, least=1
    )
    warmup: float = option("share of the steps before anything is pruned", 0.1, least=0)
    final: float = option("share of the steps after the last pruning", 0.3, least=0)
    prune_every: int = option("steps between two prunings", 10, least=1)


@dataclass(frozen=True, slots=True)
class PromptSection:
    """Soft tokens before every prompt, for prompt tuning, prefix tuning and p-tuning."""

    tokens: int = option("how many there are", 20, least=1)
    text: str | None = option("words whose embeddings they start from, in prompt tuning", None)
    hidden: int | None = option("width of p-tuning's encoder; the base's own when left out", None, least=1)


@dataclass(frozen=True, slots=True)
class KeepSection:
    """What keeps old skills while new ones are learned."""

    rows: Path | None = option("JSONL file of old rows, for replay and ewc", None)
    replay: float = option("share of the rows trained on that are old ones", 0.0, least=0)
    ewc: float = option("strength of the penalty on moving weights that old rows depend on", 0.0, least=0)
    fisher_rows: int = option("old rows to measure that dependence on", 256, least=1)


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """How long and how hard to train."""

    learning_rate: float | None = option(
        "peak learning rate; by formula from the base's family and width when left out", None, least=0
    )
    schedule: str = option(
        "course of the learning rate after warm-up", "cosine", choices=("cosine", "linear", "constant")
    )
    warmup_steps: int = option("steps of linear warm-up", 0, least=0)
    batch_size: int = option("rows in one forward pass, per device", 8, least=1)
    accumulation: int = option("forward passes that one step gathers", 1, least=1)
    epochs: float = option("passes over the train rows; max_steps wins when given", 1.0, least=0)
    max_steps: int | None = option("optimizer steps to take instead of counting epochs", None, least=1)
    optimizer: str = option(
        "auto is plain AdamW, whose state is paged out of a GPU over a quantized base where fast is off",
        "auto",
        choices=("auto", "adamw", "paged_adamw_32bit", "paged_adamw_8bit"),
    )
    lora_plus_ratio: float | None = option("LoRA+: how many times faster B learns than A", None, least=1)
    unfreeze_groups: int | None = option(
        "groups of layers that begin to learn one after another, the last layers first", None, least=2
    )
    unfreeze_every: int | None = option("steps from one group of layers to the next", None, least=1)
    weight_decay: float = option("decoupled weight decay", 0.0, least=0)
    clip: float = option("largest gradient norm; 0 leaves gradients as they are", 1.0, least=0)
    eval_every: int | None = option("steps between evaluations; once per epoch when left out", None, least=1)
    patience: int | None = option("evaluations without a better loss before stopping early", None, least=1)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One training run. Paths in a TOML file are relative to that file."""

    base: str = option("folder or hub id of the base model (required)", "")
    output: Path = option("folder that becomes the adapter (required)", Path())
    task: str = option(
        "what is learned from the rows: sft imitates their completions, the others learn from preferences or "
        "rewards",
        SFT,
        choices=(SFT, *TASKS),
        refused=REFUSED_TASKS,
    )
    method: str = option(
        "what is trained; a method is a name for settings below, which are filled in",
        "lora",
        choices=tuple(METHODS),
        refused=REFUSED,
    )
    init_from: Path | None = option("folder of an adapter to train on instead of starting afresh", None)
    last_layers: int = option("how many layers, counted from the last, the freeze methods train", 2, least=1)
    data: DataConfig = field(default=DataConfig(), metadata={"help": "the rows"})
    lora: LoraSection = field(default=LoraSection(), metadata={"help": "the adapter"})
    adalora: AdaLoraSection = field(default=AdaLoraSection(), metadata={"help": "AdaLoRA's course"})
    prompt: PromptSection = field(default=PromptSection(), metadata={"help": "soft tokens"})
    keep: KeepSection = field(default=KeepSection(), metadata={"help": "old skills"})
    preference: PreferenceSection = field(
        default=PreferenceSection(), metadata={"help": "preferences and rewards"}
    )
    evaluation: EvaluationConfig = field(default=EvaluationConfig(), metadata={"help": "the figures"})
    optim: OptimConfig = field(default=OptimConfig(), metadata={"help": "the optimizer"})
    quantization: str = option(
        "none trains on the base as it is, nf4 on its 4-bit codes (QLoRA), int8 on its 8-bit codes",
        "none",
        choices=("none", "nf4", "int8"),
    )
    quant_storage: str = option(
        "type under which 4-bit codes are kept; auto is uint8, or the base's dtype where weights are sharded",
        "auto",
        choices=("auto", "uint8", "float32", "bfloat16"),
    )
    dtype: str = option(
        "number format of the base; auto is bfloat16 on a GPU that has it and float32 elsewhere",
        "auto",
        choices=("auto", "float32", "bfloat16"),
    )
    fast: str = option(
        "kernels and losses that save time and memory; auto is on a GPU",
        "auto",
        choices=("auto", "on", "off"),
    )
    gradient_checkpointing: bool = option("recompute activations to save memory", False)
    checkpoint_every: int | None = option(
        "steps between checkpoints that a killed run goes on from; SIGTERM writes one in any case",
        None,
        least=1,
    )
    threads: int | None = option(
        "CPU threads to use; torch's own choice when left out", None, least=1, most=4096
    )
    seed: int = option(
        "decides the adapter's start, the split and the order of rows", 0, least=0, most=2**32 - 1
    )
    log_every: int = option("steps between two lines of metrics", 10, least=1)
    overwrite: bool = option("replace what stands in the output folder", False)
