"""Options that nothing reads, given the others: set, they would be ignored without a word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.methods.method import CONVERTED, PROMPTS
from training.methods.table import METHODS
from training.option import is_default
from training.preference.config import IMITATING, SFT, TASKS

if TYPE_CHECKING:
    from training.config import TrainConfig

Reads = Callable[["TrainConfig"], bool]


@dataclass(frozen=True, slots=True)
class _Readers:
    """Some options, when a run reads them, and what is said where one does not."""

    options: tuple[str, ...]
    reads: Reads
    why: str


def idle_options(config: TrainConfig) -> dict[str, str]:
    """What the run would not read, by name, each with a sentence that says what to do about it."""
    if config.method not in METHODS or config.task not in (SFT, *TASKS):
        return {}
    return {
        name: f"{name} {readers.why.format(config=config)}"
        for readers in _READERS
        if not readers.reads(config)
        for name in readers.options
    }


def idle_problems(config: TrainConfig) -> Iterator[str]:
    """One sentence for each option that was set and is not read."""
    for name, why in idle_options(config).items():
        if not is_default(config, name):
            yield why


def _by_method(families: tuple[str, ...], *options: str) -> _Readers:
    return _Readers(
        options,
        lambda config: METHODS[config.method].family in families,
        "does nothing in method {config.method}: leave it out",
    )


def _by_task(tasks: tuple[str, ...], *options: str) -> _Readers:
    return _Readers(
        tuple(f"preference.{name}" for name in options),
        lambda config: config.task in tasks,
        "does nothing in task {config.task}: leave it out",
    )


def _imitates(config: TrainConfig) -> bool:
    return config.task in IMITATING


def _holds_out(config: TrainConfig) -> bool:
    return bool(config.data.eval or config.data.eval_fraction)


def _is_plain(config: TrainConfig) -> bool:
    is_lora = METHODS[config.method].family == "lora" and not config.lora.dora
    return is_lora and config.lora.init not in CONVERTED


_PAIRS = ("lora", "adalora")
_SAMPLING = tuple(name for name, task in TASKS.items() if task.samples)
_SCORING = ("scorer", "reward_model", "num_generations", "max_completion_length", "temperature")

_READERS = (
    _by_method((*_PAIRS, "vera"), "lora.rank", "lora.dropout"),
    _by_method(_PAIRS, "lora.alpha"),
    _by_method((*_PAIRS, "vera", "ia3"), "lora.targets"),
    _by_method((*_PAIRS, "vera", "full"), "lora.layers_to_transform"),
    _by_method(("lora",), "lora.rslora", "lora.dora", "lora.init", "lora.rank_pattern", "lora.alpha_pattern"),
    _by_method(("adalora",), "adalora.start_rank", "adalora.warmup", "adalora.final", "adalora.prune_every"),
    _by_method(PROMPTS, "prompt.tokens"),
    _by_method(("prompt_tuning",), "prompt.text"),
    _by_method(("p_tuning",), "prompt.hidden"),
    _Readers(
        ("last_layers",),
        lambda config: METHODS[config.method].last_layers_only,
        "is for the freeze methods: method {config.method} trains all layers",
    ),
    _Readers(
        ("lora.eva_rho",),
        lambda config: config.lora.init == "eva",
        "does nothing without lora.init = eva: leave it out",
    ),
    _Readers(
        ("quant_storage",),
        lambda config: config.quantization == "nf4",
        "is for 4-bit codes: leave it out, or set quantization = nf4",
    ),
    _Readers(
        ("optim.eval_every",),
        _holds_out,
        "needs held-out rows: give data.eval or data.eval_fraction",
    ),
    _Readers(
        ("evaluation.max_rows",),
        lambda config: config.evaluation.answers != "none",
        "is for answers: set evaluation.answers, or leave it out",
    ),
    _Readers(
        ("evaluation.intruders",),
        _is_plain,
        "are counted in plain LoRA over the base as it is, not in method {config.method} with these "
        "settings: leave it out",
    ),
    _Readers(
        ("keep.fisher_rows",),
        lambda config: config.keep.ewc > 0,
        "is for ewc: set keep.ewc, or leave it out",
    ),
    _Readers(
        (
            "optim.lora_plus_ratio",
            "optim.unfreeze_groups",
            "optim.unfreeze_every",
            "optim.patience",
            "keep.rows",
            "keep.replay",
            "keep.ewc",
            "evaluation.answers",
            "evaluation.general",
            "evaluation.intruders",
        ),
        _imitates,
        "is for task sft: leave it out",
    ),
    _by_task(tuple(name for name in TASKS if name not in ("reward", "best_of_n")), "beta"),
    _by_task(_SAMPLING, *_SCORING),
)
