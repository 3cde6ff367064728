"""One run that learns from preferences or rewards, from a config to the folder of an adapter."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from training.artifact import TrainResult, check_servable, write_story
from training.config import TrainConfig
from training.configfile import check_config
from training.distributed.world import ALONE, join
from training.errors import InvalidConfig, InvalidData
from training.evaluation.documents import write_documents
from training.methods.learner import Learner, make_learner
from training.methods.lineage import inherited
from training.methods.settle import settled
from training.model import load_tokenizer
from training.preference.config import TASKS
from training.preference.dataset import Script, no_bars, read_sides
from training.preference.reward import reward_learner, save_reward
from training.preference.scoring import make_scorer
from training.preference.trainers import drop_reference, make_trainer
from training.progress import Report
from training.quiet import quiet
from training.stopping import Stop, stopped_by_sigterm
from training.workplace import check_output, finish, threads, workplace, workplace_of


def run(config: TrainConfig, report: Report | None = None) -> TrainResult:
    """Trains into `config.output`, which appears only once it is complete.

    SIGTERM stops it at the end of its step with a checkpoint, from which the same config goes on. Raises
    `InvalidConfig`, `InvalidData`, `InvalidBase`, `InvalidScore`, `Diverged`, `Interrupted` or
    `UnservableAdapter`.
    """
    config = settled(config)
    check_config(config)
    config = _prepared(inherited(config))
    if join() != ALONE:
        raise InvalidConfig([f"task {config.task} trains in one process: leave --processes out"])
    check_output(config)
    place = workplace_of(config)
    with (
        quiet(),
        no_bars(),
        threads(config.threads),
        stopped_by_sigterm() as stop,
        workplace(place, config, ALONE) as checkpoint,
    ):
        result = _learn(config, place, checkpoint, stop, report)
        finish(place, config)
    return result


def _prepared(config: TrainConfig) -> TrainConfig:
    """With the task's own learning rate where there is none, and computed as TRL computes."""
    rate = config.optim.learning_rate or TASKS[config.task].rate
    return replace(config, fast="off", optim=replace(config.optim, learning_rate=rate))


def _learn(
    config: TrainConfig, place: Path, checkpoint: Path | None, stop: Stop, report: Report | None
) -> TrainResult:
    began = time.monotonic()
    script = Script(load_tokenizer(config.base), config.data.format)
    sides = read_sides(config, script)
    _check_steps(config, len(sides[0]))
    scorer = make_scorer(config, [*sides[0], *sides[1]]) if TASKS[config.task].samples else None
    learner = _learner(config, int(script.tokenizer.pad_token_id), place)
    trainer = make_trainer(learner, script, sides, scorer, place, stop, report)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    eval_loss = float(trainer.evaluate()["eval_loss"]) if sides[1] else None
    drop_reference(learner)
    learner.settle()
    result = TrainResult(
        output=config.output,
        num_steps=trainer.state.global_step,
        train_loss=trainer.mean_loss(),
        eval_loss=eval_loss,
        num_train_rows=len(sides[0]),
        num_eval_rows=len(sides[1]),
        num_parameters=learner.num_parameters,
        seconds=round(time.monotonic() - began, 3),
        saving=_save(learner, script, place),
    )
    _write(learner, place, result)
    return result


def _check_steps(config: TrainConfig, num_rows: int) -> None:
    """Raises `InvalidData` where the prompts do not fill one step: TRL would take none."""
    if TASKS[config.task].samples:
        answers = config.optim.batch_size * config.optim.accumulation
        wanted = answers // config.preference.num_generations
        if num_rows < wanted:
            what = f"a step answers {wanted} prompts, and there are {num_rows} to train on"
            raise InvalidData(config.data.train, [f"{what}: add rows, or lower optim.batch_size"])


def _learner(config: TrainConfig, pad: int, place: Path) -> Learner:
    return reward_learner(config, pad) if config.task == "reward" else make_learner(config, [], pad, place)


def _save(learner: Learner, script: Script, place: Path) -> dict[str, float]:
    if learner.config.task != "reward":
        return learner.save(place, script.tokenizer, [])
    save_reward(learner, place)
    return {}


def _write(learner: Learner, place: Path, result: TrainResult) -> None:
    config = learner.config
    write_story(place, config, result)
    checked = None if config.task == "reward" else check_servable(place, learner.shapes)
    write_documents(place, config.output.name, checked, [], {})
