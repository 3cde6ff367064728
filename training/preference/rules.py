"""What a run's settings ask for that its task cannot do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from training.methods.table import METHODS
from training.preference.config import TASKS

if TYPE_CHECKING:
    from training.config import TrainConfig


def task_problems(config: TrainConfig) -> Iterator[str]:
    """One sentence each. A task that is none has been found before."""
    if config.task in TASKS:
        yield from _scorer_problems(config)
        if config.task != "best_of_n":
            yield from _method_problems(config)
            yield from _batch_problems(config)


def _scorer_problems(config: TrainConfig) -> Iterator[str]:
    wanted = config.preference
    given = [name for name in ("scorer", "reward_model") if getattr(wanted, name) is not None]
    if TASKS[config.task].samples and len(given) != 1:
        yield f"task {config.task} scores what it samples: give preference.scorer or preference.reward_model"


def _method_problems(config: TrainConfig) -> Iterator[str]:
    method = METHODS.get(config.method)
    if method and (method.family != "lora" or config.lora.init != "default"):
        yield f"task {config.task} trains LoRA from its usual start: use method lora, qlora, rslora or dora"
    if config.task == "reward" and config.init_from is not None:
        yield "init_from is an adapter that writes; task reward starts afresh"
    if config.task == "reward" and config.quantization != "none":
        yield "task reward learns a head beside the adapter: set quantization = none"
    if config.fast == "on":
        yield f'fast = "on" is for task sft: task {config.task} is computed by TRL'


def _batch_problems(config: TrainConfig) -> Iterator[str]:
    optim, answers = config.optim, config.preference.num_generations
    has_held_out = bool(config.data.eval or config.data.eval_fraction)
    if TASKS[config.task].samples:
        what = f"task {config.task} takes {answers} answers to a prompt"
        if optim.batch_size * optim.accumulation % answers:
            yield f"{what}: optim.batch_size times optim.accumulation must be a multiple of that"
        elif has_held_out and optim.batch_size % answers:
            yield f"{what}: with held-out rows optim.batch_size must be a multiple of that"
    if config.task == "kto" and optim.batch_size < 2:
        yield "task kto compares the rows of a batch: optim.batch_size must be at least 2"
