"""What a run measures of itself, end to end on the micro base."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.config import DataConfig, TrainConfig
from training.configfile import parse_config, read_config
from training.data import read_rows
from training.errors import InvalidConfig, InvalidData
from training.evaluate import answer, held_out_loss
from training.evaluation.choices import answer_losses, choose, find_labels
from training.evaluation.config import EvaluationConfig
from training.evaluation.exam import read_exam
from training.model import load_adapted, load_base, load_tokenizer
from training.train import run

PNG = b"\x89PNG\r\n\x1a\n"


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def measured(config: TrainConfig, write_jsonl: Callable[..., Path]) -> TrainConfig:
    """A run that learns the colors well enough, with all that can be measured of it."""
    general = [{"prompt": f"Say {word}.", "completion": word} for word in ("rent", "sugar", "night", "paid")]
    return replace(
        config,
        data=DataConfig(train=config.data.train, eval=config.data.train, max_length=64),
        optim=replace(config.optim, max_steps=40, learning_rate=2e-2),
        evaluation=EvaluationConfig(
            answers="labels",
            general=write_jsonl(general, "general.jsonl"),
            intruders=4,
            report_to=("tensorboard",),
        ),
    )


def test_everything_that_is_measured_stands_in_the_folder(measured: TrainConfig) -> None:
    folder = run(measured).output
    last = metrics(folder)[-1]
    assert last["accuracy"] > 0.5 and last["f1"] > 0.4 and last["answered_rows"] == 16
    assert last["eval_loss"] < last["eval_loss_before"]
    assert last["general_loss"] != last["general_loss_before"]
    assert 0 < last["intruders"] <= 4 * 14

    manifest = json.loads((folder / "lorikeet_manifest.json").read_text())
    assert manifest["metrics"]["accuracy"] == last["accuracy"]
    card = (folder / "README.md").read_text()
    assert f"| F1, mean over labels | {last['f1']:.4f} |" in card or last["f1"] == 1.0
    assert "![losses over steps](curves.png)" in card and manifest["data_sha256"] in card
    assert (folder / "curves.png").read_bytes().startswith(PNG)

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    course = [event.value for event in events.Scalars("train/loss")]
    assert course == pytest.approx([line["loss"] for line in metrics(folder) if "loss" in line], rel=1e-5)


def test_before_training_is_the_base(measured: TrainConfig) -> None:
    exam = read_exam(measured, load_tokenizer(measured.base))
    base = load_base(measured.base)
    folder = run(replace(measured, optim=replace(measured.optim, max_steps=1))).output
    last = metrics(folder)[-1]
    for name, loss in exam.before(base).items():
        assert last[name] == pytest.approx(loss, abs=1e-6), name
    adapted = load_adapted(measured.base, folder)
    assert last["general_loss"] == pytest.approx(exam.after(adapted)["general_loss"], abs=1e-6)
    assert last["accuracy"] == exam.after(adapted)["accuracy"]


def test_a_choice_is_what_scoring_one_by_one_finds(measured: TrainConfig) -> None:
    tokenizer, base = load_tokenizer(measured.base), load_base(measured.base)
    exam = read_exam(measured, tokenizer)
    labels = ("red", "reddish", "green", "blue")
    chosen = choose(base, tokenizer, exam.held[:3], labels, measured.data, batch_size=5)
    losses = answer_losses(base, exam.held_examples, tokenizer.pad_token_id, batch_size=3)
    tokens = sum(example.num_loss_tokens for example in exam.held_examples)
    whole = held_out_loss(base, exam.held_examples, tokenizer.pad_token_id)
    assert sum(losses) / tokens == pytest.approx(whole, rel=1e-5)
    alone = [choose(base, tokenizer, [row], labels, measured.data)[0] for row in exam.held[:3]]
    assert chosen == alone and set(chosen) <= set(labels)


def test_rows_that_are_dropped_are_not_asked_and_long_labels_end_no_run(
    measured: TrainConfig, write_jsonl: Callable[..., Path]
) -> None:
    tokenizer = load_tokenizer(measured.base)
    rows = [{"prompt": "Color?", "completion": "red"}, {"prompt": "Color? " * 40, "completion": "red"}]
    held = write_jsonl(rows, "held.jsonl")
    exact = max(len(example.input_ids) for example in read_exam(measured, tokenizer).held_examples)
    data = replace(measured.data, eval=held, max_length=exact, too_long="drop")
    labels = ("red", "red and green and blue and white " * 3)
    asked = replace(measured.evaluation, labels=labels)
    exam = read_exam(replace(measured, data=data, evaluation=asked), tokenizer)
    assert (len(exam.held), [row.line for row in exam.asked]) == (2, [1])
    assert exam.marks(load_base(measured.base)).num_rows == 1


def test_labels_are_those_of_the_rows_unless_they_are_too_many(measured: TrainConfig) -> None:
    rows = read_exam(measured, load_tokenizer(measured.base)).held
    assert find_labels(None, rows) == ("blue", "green", "red", "white")
    assert find_labels(("b", "a", "b"), rows) == ("b", "a")
    prompt = rows[0].messages[0]
    many = [replace(rows[0], messages=(prompt, {"role": "assistant", "content": str(i)})) for i in range(101)]
    with pytest.raises(InvalidConfig, match="101 different answers"):
        find_labels(None, many)


def test_generated_answers_are_counted_too(measured: TrainConfig) -> None:
    settings = EvaluationConfig(answers="generate", max_rows=5)
    optim = replace(measured.optim, max_steps=8)
    folder = run(replace(measured, evaluation=settings, optim=optim)).output
    last = metrics(folder)[-1]
    rows = read_rows(measured.data.train)[:5]
    said = answer(load_adapted(measured.base, folder), load_tokenizer(measured.base), rows, "auto")
    right = [text == row.completion for text, row in zip(said, rows, strict=True)]
    assert last["answered_rows"] == 5 and last["accuracy"] == sum(right) / 5
    assert "general_loss" not in last and "intruders" not in last


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"answers": "generate"}, "evaluation.answers needs held-out rows"),
        ({"answers": "maybe"}, "evaluation.answers must be none or labels or generate"),
        ({"labels": ["red"]}, 'are for evaluation.answers = "labels"'),
        ({"report_to": ["mlflow"]}, "may name tensorboard and wandb, not 'mlflow'"),
        ({"report_to": ["wandb"]}, "wandb is not installed: pip install wandb"),
        ({"max_rows": 0}, "evaluation.max_rows must be at least 1"),
        ({"general": 3}, "evaluation.general must be a path"),
    ],
)
def test_settings_that_cannot_be(table: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.evaluation.config.find_spec", lambda name: None)
    with pytest.raises(InvalidConfig, match=told):
        parse_config({"base": "b", "output": "o", "data": {"train": "t"}, "evaluation": table})


def test_general_rows_are_checked_like_others(measured: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "general.jsonl").write_text("{}\n")
    settings = replace(measured.evaluation, general=tmp_path / "general.jsonl")
    with pytest.raises(InvalidData, match="general.jsonl cannot be used:\n  line 1"):
        run(replace(measured, evaluation=settings))
    assert not measured.output.exists()


def test_the_section_reads_from_toml(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        'base = "b"\noutput = "o"\n[data]\ntrain = "t"\neval = "e"\n[evaluation]\nanswers = "labels"\n'
        'labels = ["a", "b"]\ngeneral = "g.jsonl"\nreport_to = "tensorboard"\n'
    )
    evaluation = read_config(tmp_path / "run.toml").evaluation
    assert evaluation.general == tmp_path / "g.jsonl"
    assert (evaluation.labels, evaluation.report_to) == (("a", "b"), ("tensorboard",))


def test_a_look_at_four_bit_codes_before_training_changes_nothing(measured: TrainConfig) -> None:
    """Some CPUs re-lay 4-bit weights in the first pass without gradients."""
    optim = replace(measured.optim, max_steps=4)
    config = replace(measured, quantization="nf4", optim=optim, evaluation=EvaluationConfig(intruders=4))
    folder = run(config).output
    alone = replace(config.data, eval=None)
    unseen = run(replace(config, output=folder.with_name("unseen"), data=alone)).output
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (folder / name).read_bytes() == (unseen / name).read_bytes()
    tokenizer = load_tokenizer(config.base)
    loaded = load_adapted(config.base, folder, quantization="nf4")
    again = held_out_loss(loaded, read_exam(config, tokenizer).held_examples, tokenizer.pad_token_id)
    assert metrics(folder)[-1]["eval_loss"] == pytest.approx(again, abs=1e-4)
