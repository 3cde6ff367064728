"""What keeps old skills: a penalty on moving what they depend on, and old rows among the new."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.learning import lesson
from training.config import KeepSection, TrainConfig
from training.data import read_rows
from training.encode import Example, encode_rows
from training.evaluate import held_out_loss
from training.methods.ewc import Tether, fisher
from training.methods.replay import with_replay
from training.model import load_adapted, load_tokenizer
from training.train import run


@pytest.fixture
def old_rows(write_jsonl: Callable[..., Path]) -> Path:
    return write_jsonl(
        [{"prompt": f"Size of the {thing}?", "completion": "small"} for thing in ("kettle", "tent", "lamp")],
        "old.jsonl",
    )


def test_fisher_is_the_mean_of_squared_gradients_row_by_row(config: TrainConfig, tmp_path: Path) -> None:
    taught = lesson(config, tmp_path / "run")
    learner, pad = taught.learner, int(taught.tokenizer.pad_token_id)
    rows = taught.examples[:3]
    found = fisher(learner.model, learner.weights, rows, pad)
    name = next(name for name in learner.weights if "lora_B" in name)
    expected = torch.zeros_like(learner.weights[name])
    for row in rows:
        learner.model.zero_grad()
        ids = torch.tensor([row.input_ids])
        mean = learner.model.eval()(input_ids=ids, labels=torch.tensor([row.labels])).loss
        (mean * row.num_loss_tokens).backward()
        expected += learner.weights[name].grad.square() / len(rows)
    assert float(expected.max()) > 0
    torch.testing.assert_close(found[name], expected)


def test_the_penalty_is_the_formula() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    tether = Tether({"w": weight}, {"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([3.0, 0.5])}, 10.0)
    assert tether.penalty().item() == pytest.approx(10 / 2 * (3 * 1 + 0.5 * 4))
    tether.penalty().backward()
    assert weight.grad.tolist() == [30.0, -10.0]  # type: ignore[union-attr]


def test_ewc_keeps_an_old_skill_and_is_the_same_for_any_accumulation(
    config: TrainConfig, old_rows: Path, tmp_path: Path
) -> None:
    old = replace(config, data=replace(config.data, train=old_rows), output=tmp_path / "old")
    taught = run(replace(old, optim=replace(old.optim, max_steps=30))).output
    config = replace(config, init_from=taught, optim=replace(config.optim, max_steps=8))
    held = replace(config, keep=KeepSection(rows=old_rows, ewc=1e6))
    in_two = replace(held, optim=replace(held.optim, batch_size=4, accumulation=2))
    free, tied, parts = (
        run(replace(run_of, output=tmp_path / name)).output
        for name, run_of in (("free", config), ("tied", held), ("parts", in_two))
    )
    kept = loss_on(old_rows, taught, config)
    forgotten = loss_on(old_rows, free, config) - kept
    assert forgotten > 0.5
    assert loss_on(old_rows, tied, config) - kept < forgotten / 2
    new = config.data.train
    assert loss_on(new, tied, config) < loss_on(new, taught, config) - 0.2, "and still it learns"
    assert loss_on(new, parts, config) == pytest.approx(loss_on(new, tied, config), rel=0.02)


def loss_on(path: Path, adapter: Path, config: TrainConfig) -> float:
    tokenizer = load_tokenizer(config.base)
    examples = encode_rows(read_rows(path), tokenizer, config.data, path)
    return held_out_loss(load_adapted(config.base, adapter), examples, int(tokenizer.pad_token_id))


def test_replay_mixes_in_a_share_of_old_rows_each_once_before_any_twice() -> None:
    new, old = (
        [Example([number], [number]) for number in numbers] for numbers in (range(30), (100, 101, 102))
    )
    mixed = with_replay(new, old, 0.25, seed=1)
    added: list[Any] = [example.input_ids[0] for example in mixed[30:]]
    assert mixed[:30] == new and len(added) == 10
    assert sorted(added[:3]) == sorted(added[3:6]) == [100, 101, 102]
    assert mixed == with_replay(new, old, 0.25, seed=1) != with_replay(new, old, 0.25, seed=2)
    assert with_replay(new, old, 0.0, seed=1) == new


def test_replayed_rows_are_trained_on(config: TrainConfig, old_rows: Path) -> None:
    keep = KeepSection(rows=old_rows, replay=0.2)
    result = run(replace(config, keep=keep, optim=replace(config.optim, max_steps=1)))
    assert result.num_train_rows == 16 + 4
