"""What best_of_n has sampled outlives the run that sampled it, and is taken for nothing else."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from tests.training.halting import WEIGHTS, halted, stop_at
from training.config import TrainConfig
from training.errors import Interrupted, InvalidBase
from training.preference import best_of
from training.preference.sampled import drop, take_up
from training.progress import Progress
from training.tasks import run

Change = Callable[[TrainConfig], TrainConfig]


@pytest.fixture
def config(make: Callable[..., TrainConfig], pairs: list[Any]) -> TrainConfig:
    scorer = "tests.training.preference.toys:share_of_e"
    rows = [{"prompt": row["prompt"]} for row in pairs[:6]]
    return make(
        "best_of_n", rows, {"max_steps": 4}, scorer=scorer, num_generations=3, max_completion_length=4
    )


def left_by(config: TrainConfig) -> Path:
    return config.output.with_name(f".{config.output.name}.sampled.jsonl")


def check_same(one: Path, other: Path) -> None:
    """The same answers picked, the same weights learned, the same figures told."""
    assert (one / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()
    picked = [folder.with_name(f"{folder.name}.best.jsonl").read_bytes() for folder in (one, other)]
    assert picked[0] == picked[1]
    told = [json.loads((folder / "lorikeet_manifest.json").read_text())["metrics"] for folder in (one, other)]
    assert told[0] == told[1] and "sampled_score" in told[0]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lines of all prompts that are sampled in this process."""
    lines: list[int] = []
    answers = best_of._answers

    def counted(model: Any, config: Any, script: Any, record: Any) -> list[str]:
        lines.append(record.line)
        return answers(model, config, script, record)

    monkeypatch.setattr(best_of, "_answers", counted)
    return lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_ended_while_it_samples_asks_only_what_is_left(
    number: signal.Signals, config: TrainConfig, tmp_path: Path, asked: list[int]
) -> None:
    process = halted(config, tmp_path)
    process.send_signal(number)
    said = process.communicate("go on\n", timeout=240)[1]
    if number == signal.SIGTERM:
        assert process.returncode == 1 and "after 3 of 6 prompts: the same command goes on" in said
    else:
        # The kill hit it in the middle of a line.
        with left_by(config).open("ab") as file:
            file.write(b'{"line": 4, "answ')
    result = run(config)
    assert asked == [4, 5, 6]
    whole = run(replace(config, output=tmp_path / "whole"))
    assert asked == [4, 5, 6, *range(1, 7)]
    check_same(whole.output, result.output)
    assert not left_by(config).exists()


def test_a_run_stopped_while_it_trains_samples_nothing_again(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    whole = run(replace(config, output=tmp_path / "whole"))
    stop = stop_at(2, monkeypatch)

    def stop_training(progress: Progress) -> None:
        if progress.phase == "train":
            stop(progress)

    with pytest.raises(Interrupted, match="after step 2 of 4"):
        run(config, stop_training)
    asked.clear()
    monkeypatch.setattr(best_of, "load_base", None)
    check_same(whole.output, run(config).output)
    assert not asked


def with_generation_config(config: TrainConfig) -> TrainConfig:
    (Path(config.base) / "generation_config.json").write_text('{"top_p": 0.5}')
    return config


def with_other_weights(config: TrainConfig) -> TrainConfig:
    path = Path(config.base) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return config


def with_other_rows(config: TrainConfig) -> TrainConfig:
    config.data.train.write_text(config.data.train.read_text().upper().replace("PROMPT", "prompt"))
    return config


@pytest.mark.parametrize(
    "change",
    [
        lambda config: replace(config, seed=config.seed + 1),
        lambda config: replace(config, dtype="bfloat16"),
        lambda config: replace(config, quantization="nf4"),
        lambda config: replace(config, preference=replace(config.preference, temperature=0.5)),
        lambda config: replace(config, preference=replace(config.preference, num_generations=4)),
        lambda config: replace(config, preference=replace(config.preference, max_completion_length=5)),
        lambda config: replace(config, data=replace(config.data, format="completion")),
        with_generation_config,
        with_other_weights,
        with_other_rows,
    ],
)
def test_answers_made_from_something_else_are_not_taken(
    config: TrainConfig, tmp_path: Path, change: Change
) -> None:
    config = replace(config, base=str(copytree(config.base, tmp_path / "base")))
    take_up(config).add(1, ["red", "blue"])
    # Neither the learning nor the scoring changes what was answered.
    later = replace(config, optim=replace(config.optim, learning_rate=1e-4))
    assert take_up(later).answers == {1: ["red", "blue"]}
    assert take_up(change(config)).answers == {}
    # They are gone for good.
    assert take_up(change(config)).answers == {}


def test_another_adapter_to_start_from_answers_otherwise(config: TrainConfig, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    (start / WEIGHTS).write_bytes(b"one")
    config = replace(config, init_from=start)
    take_up(config).add(1, ["red"])
    assert take_up(config).answers == {1: ["red"]}
    (start / WEIGHTS).write_bytes(b"two")
    assert take_up(config).answers == {}


def test_what_is_left_is_dropped(config: TrainConfig) -> None:
    take_up(config)
    drop(config)
    assert not left_by(config).exists()


def test_a_base_without_a_configuration_is_told(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InvalidBase, match="has no configuration"):
        take_up(replace(config, base=str(tmp_path)))
