"""TRL's trainer of a task, over a learner that is ready: losses, sampling and references are TRL's.

What a policy is held to is a frozen copy of the adapter as it began, under a name of its own; it goes before
saving.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trl
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback

from training.arguments import training_arguments
from training.callbacks import Checkpointing, Metrics, MovedGuard
from training.checkpoints import checkpoint_root
from training.config import TrainConfig
from training.distributed.world import ALONE
from training.evaluation.trackers import tracker_callbacks
from training.files import METRICS_FILE
from training.methods.learner import Learner
from training.preference.config import TASKS
from training.preference.dataset import ROW, Script, as_dataset
from training.preference.keeping import keeping
from training.preference.rows import Record
from training.preference.scorers import Scorer
from training.progress import Report
from training.stopping import Stop

_REFERENCE = "ref"


def make_trainer(
    learner: Learner,
    script: Script,
    sides: tuple[list[Record], list[Record]],
    scorer: Scorer | None,
    place: Path,
    stop: Stop,
    report: Report | None,
) -> Any:
    """A trainer whose metrics and checkpoints go to `place`; `sides` are rows to train on and held out."""
    config, task = learner.config, TASKS[learner.config.task]
    train, held = (as_dataset(records, script, task.rows) if records else None for records in sides)
    started = {name: weight.data for name, weight in learner.weights.items()}
    trainer = keeping(task)(
        model=learner.model,
        args=_arguments(config, place, held),
        train_dataset=train,
        eval_dataset=held,
        processing_class=script.tokenizer,
        callbacks=_callbacks(learner, place, stop, report),
        **({"reward_funcs": _reward(scorer)} if scorer else {}),
    )
    # Over a quantized base TRL rounds what learns to 16 bits, where small steps are lost.
    for name, weight in learner.weights.items():
        weight.data = started[name]
    trainer.keep(learner, place)
    trainer.remove_callback(PrinterCallback)
    return trainer


def drop_reference(learner: Learner) -> None:
    """Leaves the adapter that has learned alone."""
    if _REFERENCE in learner.model.peft_config:
        learner.model.delete_adapter(_REFERENCE)


def _arguments(config: TrainConfig, place: Path, held: Dataset | None) -> Any:
    task, wanted = TASKS[config.task], config.preference
    more: dict[str, Any] = {"gradient_checkpointing": config.gradient_checkpointing}
    if wanted.beta is not None and config.task != "reward":
        more["beta"] = wanted.beta
    if task.samples:
        more["num_generations"] = wanted.num_generations
        more["max_completion_length"] = wanted.max_completion_length
        more["temperature"] = wanted.temperature
    else:
        more["max_length"] = config.data.max_length
    kind = getattr(trl, task.trainer.replace("Trainer", "Config"))
    return training_arguments(config, checkpoint_root(place), held is not None, ALONE, kind, **more)


def _callbacks(learner: Learner, place: Path, stop: Stop, report: Report | None) -> list[TrainerCallback]:
    samples = TASKS[learner.config.task].samples
    # A policy's loss is 0 where all answers earn the same, and always before its first step.
    callbacks: list[TrainerCallback] = [Metrics(place / METRICS_FILE, report, may_be_zero=samples)]
    if not samples:
        callbacks.append(MovedGuard(learner))
    callbacks.append(Checkpointing(learner.config.checkpoint_every, stop, place))
    return [*callbacks, *tracker_callbacks(learner.config.evaluation, place)]


def _reward(scorer: Scorer) -> Any:
    """`scorer` as TRL calls it: with the columns of the data set, one entry an answer."""

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        records = [
            Record(0, _messages(prompt), json.loads(row))
            for prompt, row in zip(prompts, columns[ROW], strict=True)
        ]
        return scorer(records, [_text(completion) for completion in completions])

    return reward


def _messages(prompt: Any) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
