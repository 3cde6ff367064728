"""One training run, from a config to the folder of an adapter or a model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from training.artifact import Origin, TrainResult, check_servable, write_story
from training.config import TrainConfig
from training.configfile import check_config
from training.data import read_rows
from training.distributed.rules import check_together
from training.distributed.world import World, join
from training.encode import Example, encode_rows
from training.errors import InvalidConfig
from training.evaluation.documents import write_documents
from training.evaluation.exam import Exam, read_exam, split_data
from training.methods.ewc import Tether, make_tether
from training.methods.learner import Learner, make_learner
from training.methods.lineage import inherited
from training.methods.replay import with_replay
from training.methods.settle import settled
from training.model import load_tokenizer
from training.preference.config import SFT
from training.progress import Report
from training.quiet import quiet
from training.rates import with_rate
from training.stopping import Stop, stopped_by_sigterm
from training.trainer import Job, LearnTrainer
from training.workplace import check_output, finish, threads, workplace, workplace_of

__all__ = ["TrainResult", "run"]


@dataclass(frozen=True, slots=True)
class _Examples:
    """`train` has the old rows to be replayed in it."""

    train: list[Example]
    held: list[Example]
    old: list[Example]


@dataclass(frozen=True, slots=True)
class _Setup:
    """`checkpoint`: what it goes on from, if it does."""

    config: TrainConfig
    world: World
    exam: Exam
    examples: _Examples
    place: Path
    checkpoint: Path | None

    @property
    def pad(self) -> int:
        return int(self.exam.tokenizer.pad_token_id)


def run(config: TrainConfig, report: Report | None = None, origin: Origin | None = None) -> TrainResult:
    """Trains into `config.output`, which appears only once it is complete; `origin` tells of made rows.

    SIGTERM stops it at the end of its step with a checkpoint, from which the same config goes on. Raises
    `InvalidConfig`, `InvalidData`, `InvalidBase`, `Diverged`, `Interrupted` or `UnservableAdapter`.
    """
    config = settled(config)
    check_config(config)
    if config.task != SFT:
        raise InvalidConfig([f"task {config.task} is no imitation: training.tasks.run runs any task"])
    config = with_rate(inherited(config))
    world = join()
    check_together(config, world)
    if world.is_first:
        check_output(config)
    place = workplace_of(config)
    with quiet(), threads(config.threads), stopped_by_sigterm() as stop:
        exam = read_exam(config, load_tokenizer(config.base))
        examples = _examples(config, exam)
        with workplace(place, config, world) as checkpoint:
            result = _train(_Setup(config, world, exam, examples, place, checkpoint), stop, report, origin)
            if world.is_first:
                finish(place, config)
            world.wait()
    return result


def _train(setup: _Setup, stop: Stop, report: Report | None, origin: Origin | None) -> TrainResult:
    began = time.monotonic()
    learner = make_learner(setup.config, setup.examples.train, setup.pad, setup.place, setup.world)
    trainer = LearnTrainer(learner, _job(setup, learner), setup.place, stop, report)
    trainer.train(resume_from_checkpoint=str(setup.checkpoint) if setup.checkpoint else None)
    learner.settle()
    result = TrainResult(
        output=setup.config.output,
        num_steps=trainer.state.global_step,
        eval_loss=_eval_loss(trainer, bool(setup.examples.held)),
        train_loss=trainer.mean_loss(),
        num_train_rows=len(setup.examples.train),
        num_eval_rows=len(setup.examples.held),
        num_parameters=learner.num_parameters,
        seconds=round(time.monotonic() - began, 3),
        saving=learner.save(setup.place, setup.exam.tokenizer, setup.examples.train),
    )
    # Every process that asks does so, whoever writes.
    after = setup.exam.after(trainer.model) if _asks(setup.world) else {}
    if setup.world.is_first:
        measured = {**trainer.before, **after, **(origin.figures if origin else {})}
        write_story(setup.place, setup.config, result, origin)
        checked = None if learner.method.makes_model else check_servable(setup.place, learner.shapes)
        write_documents(setup.place, setup.config.output.name, checked, setup.exam.held, measured)
    return result


def _asks(world: World) -> bool:
    """Whether this process asks the model: a base in shares answers no process alone."""
    return world.is_first or world.is_sharded


def _job(setup: _Setup, learner: Learner) -> Job:
    tether = _tether(learner, setup.examples.old, setup.pad)
    exam = setup.exam if _asks(setup.world) else None
    return Job(setup.examples.train, setup.examples.held, setup.pad, tether, exam)


def _tether(learner: Learner, old: list[Example], pad: int) -> Tether | None:
    keep = learner.config.keep
    if not keep.ewc:
        return None
    return make_tether(
        learner.model,
        learner.weights,
        old,
        strength=keep.ewc,
        num_rows=keep.fisher_rows,
        seed=learner.config.seed,
        pad=pad,
    )


def _eval_loss(trainer: LearnTrainer, has_held: bool) -> float | None:
    """The held-out loss of the weights that are saved, which may be those of an earlier step."""
    return float(trainer.evaluate()["eval_loss"]) if has_held else None


def _examples(config: TrainConfig, exam: Exam) -> _Examples:
    data, tokenizer = config.data, exam.tokenizer
    rows, _ = split_data(config)
    new, old = encode_rows(rows, tokenizer, data, data.train), _old(config, tokenizer)
    return _Examples(
        train=with_replay(new, old, config.keep.replay, config.seed), held=exam.held_examples, old=old
    )


def _old(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    path = config.keep.rows
    return encode_rows(read_rows(path), tokenizer, config.data, path) if path else []
