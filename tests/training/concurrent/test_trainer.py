"""A job of the concurrent trainer is the run that `lorikeet train` makes of the same settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.concurrent.conftest import MakeBase, rows_of, settings
from training.concurrent.rows import read
from training.concurrent.session import Sharing, train_together
from training.concurrent.trainer import ConcurrentTrainer
from training.config import LoraSection, OptimConfig, TrainConfig
from training.errors import InvalidConfig
from training.model import load_tokenizer
from training.progress import Progress
from training.train import run

WEIGHTS = "adapter_model.safetensors"
OPTIM = OptimConfig(
    learning_rate=1e-2,
    batch_size=5,
    max_steps=5,
    warmup_steps=2,
    weight_decay=0.1,
    clip=0.7,
    schedule="linear",
)


def metrics(folder: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def settings_of(folder: Path) -> Any:
    return json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_two_runs_at_once_are_what_each_is_by_trainer_and_peft(
    held_out: TrainConfig, tmp_path: Path, quantization: str
) -> None:
    plain = replace(held_out, quantization=quantization, optim=OPTIM)
    small = LoraSection(
        rank=2, alpha=3.0, rslora=True, targets=("q_proj", "up_proj"), rank_pattern={"up_proj": 3}
    )
    configs = [
        replace(plain, output=tmp_path / "one"),
        replace(
            plain,
            output=tmp_path / "two",
            lora=small,
            seed=3,
            optim=replace(OPTIM, accumulation=2, batch_size=4),
        ),
    ]
    outcomes = train_together(configs, Sharing())
    assert [outcome.error for outcome in outcomes] == [None, None]
    for config in configs:
        alone = run(replace(config, output=tmp_path / f"{config.output.name}-alone"))
        mine, theirs = (load_file(folder / WEIGHTS) for folder in (config.output, alone.output))
        assert mine.keys() == theirs.keys()
        for name, weight in theirs.items():
            assert torch.allclose(mine[name], weight, atol=1e-5), name
        for key in ("loss", "eval_loss", "learning_rate", "grad_norm"):
            course = metrics(alone.output, key)
            assert metrics(config.output, key) == pytest.approx(
                course[: len(metrics(config.output, key))], abs=1e-5
            )
        assert settings_of(config.output) == settings_of(alone.output)
        assert sorted(path.name for path in config.output.iterdir()) == sorted(
            path.name for path in alone.output.iterdir()
        )


@pytest.mark.parametrize(
    ("quantization", "dtype"), [("none", "float32"), ("nf4", "float32"), ("none", "bfloat16")]
)
def test_checkpointing_and_shared_products_train_alike(
    shared: MakeBase, base: Path, config: TrainConfig, quantization: str, dtype: str
) -> None:
    ends = []
    for options in ({}, {"checkpointing": True}, {"together": True}):
        trainer = ConcurrentTrainer(shared(quantization, dtype, **options), load_tokenizer(str(base)))
        jobs = [trainer.join(settings(config, number), rows_of(number)) for number in (1, 2)]
        assert all(outcome.error is None for outcome in trainer.run())
        ends.append(torch.cat([job.weights.flat.detach() for job in jobs]))
    exact, checkpointed, together = ends
    assert torch.equal(exact, checkpointed)
    assert torch.allclose(exact, together, atol=1e-4 if dtype == "float32" else 5e-2)


def test_early_stopping_ends_one_job_and_keeps_its_best_weights(
    trainer: ConcurrentTrainer, config: TrainConfig
) -> None:
    wild = OptimConfig(
        learning_rate=0.5, schedule="constant", batch_size=4, max_steps=30, eval_every=1, patience=2
    )
    seen: list[Progress] = []
    trainer._report = seen.append
    trainer.join(replace(config, output=config.output.with_name("wild"), optim=wild), rows_of(1, num_held=3))
    calm = replace(config, optim=replace(config.optim, max_steps=8, eval_every=5))
    trainer.join(calm, rows_of(2, num_held=3))
    ended = {outcome.name: outcome.result for outcome in trainer.run()}
    stopped, finished = ended["wild"], ended["adapter"]
    assert stopped and finished
    course = metrics(stopped.output, "eval_loss")
    assert stopped.num_steps < 30 and stopped.eval_loss == min(course)
    # The last evaluation is of the weights that are left, though no fifth step asks for it. Its loss stands
    # once more among the figures of the end.
    assert finished.num_steps == 8
    assert metrics(finished.output, "eval_loss")[1:] == [finished.eval_loss, finished.eval_loss]
    assert [progress.step for progress in seen if progress.phase == "adapter"] == list(range(1, 9))


def test_a_job_can_be_stopped_and_one_waits_while_there_is_no_room(
    shared: MakeBase, base: Path, config: TrainConfig
) -> None:
    trainer = ConcurrentTrainer(shared(), load_tokenizer(str(base)), at_once=1)
    # A run that names no learning rate gets the formula's.
    named = replace(config.optim, learning_rate=None)
    first = trainer.add(replace(config, output=config.output.with_name("first"), optim=named))
    assert first.config.optim.learning_rate is not None
    trainer.add(config)
    assert trainer.step() == [] and trainer.jobs == [first]
    assert trainer.step() == []
    first.course.stop()
    outcomes = trainer.run()
    assert [outcome.name for outcome in outcomes] == ["first", "adapter"]
    assert [outcome.result.num_steps for outcome in outcomes if outcome.result] == [3, 6]


def test_what_is_not_offered_is_refused_by_name(trainer: ConcurrentTrainer, config: TrainConfig) -> None:
    with pytest.raises(InvalidConfig, match=r"lora.dropout = 0.1 is not offered"):
        trainer.add(replace(config, lora=replace(config.lora, dropout=0.1)))
    with pytest.raises(InvalidConfig, match="no linear lm_head"):
        trainer.add(replace(config, lora=LoraSection(targets=("lm_head",))))
    config.output.mkdir()
    (config.output / "precious").touch()
    with pytest.raises(InvalidConfig, match="not empty"):
        trainer.add(config)
    other = replace(config, quantization="nf4")
    with pytest.raises(InvalidConfig, match=r"(?s)quantization.*nf4 and none.*named by two runs"):
        train_together([config, other], Sharing())
    assert not trainer.jobs


def test_closing_leaves_nothing_behind(trainer: ConcurrentTrainer, config: TrainConfig) -> None:
    trainer.add(config)
    trainer.step()
    trainer.close()
    assert not trainer.jobs and not config.output.exists()
    assert not list(config.output.parent.glob(".*partial"))


def test_rows_are_those_of_a_run_alone(held_out: TrainConfig) -> None:
    rows = read(held_out, load_tokenizer(held_out.base))
    assert (len(rows.train), len(rows.held)) == (12, 4)
