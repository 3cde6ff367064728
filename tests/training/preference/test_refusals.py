from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from lorikeet.cli.main import main
from training import train
from training.config import LoraSection, TrainConfig
from training.configfile import check_config, dump_config, parse_config
from training.errors import InvalidConfig, InvalidData, TrainingError
from training.preference.config import TASKS
from training.preference.rows import Record, read_records, split_records
from training.preference.scorers import InvalidScore, rule_scorer
from training.publish.trained import open_trained
from training.tasks import run

Make = Callable[..., TrainConfig]
PROMPTS = [{"prompt": "Color?", "answer": "red"}]


def record(**value: str) -> Record:
    return Record(1, ({"role": "user", "content": "Color?"},), value)


def test_ppo_is_refused_with_what_to_use_instead(config: TrainConfig) -> None:
    with pytest.raises(InvalidConfig, match="has left TRL.*grpo or rloo"):
        check_config(replace(config, task="ppo"))


@pytest.mark.parametrize(
    ("task", "rows", "problems"),
    [
        (
            "dpo",
            ['{"prompt": "a"', {"prompt": "a"}, {"prompt": "a", "chosen": "b", "rejected": "b"}],
            ["line 1: not JSON", "line 2: chosen and rejected missing", "line 3: .*nothing to prefer"],
        ),
        (
            "kto",
            [
                {"prompt": "a", "completion": "b", "label": 1},
                {"prompt": "", "completion": "b", "label": True},
            ],
            ["line 1: label must be true or false", "line 2: prompt must be text"],
        ),
        (
            "grpo",
            [[], {"prompt": [{"role": "assistant", "content": "b"}]}],
            ["line 1", "line 2: .*end"],
        ),
    ],
)
def test_bad_rows_are_told_by_their_lines(
    task: str, rows: list[Any], problems: list[str], write_jsonl: Callable[..., Path]
) -> None:
    with pytest.raises(InvalidData) as caught:
        read_records(write_jsonl(rows), TASKS[task].rows)
    assert len(caught.value.problems) == len(problems)
    for problem in problems:
        assert caught.match(problem)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"task": "grpo"}, "give preference.scorer or preference.reward_model"),
        ({"task": "dpo", "preference": {"scorer": "exact"}}, "does nothing in task dpo"),
        ({"preference": {"beta": 0.2}}, "preference.beta does nothing in task sft"),
        (
            {"task": "dpo", "preference": {"temperature": 0.5}},
            "preference.temperature does nothing in task dpo",
        ),
        ({"task": "reward", "preference": {"beta": 0.2}}, "preference.beta does nothing in task reward"),
        (
            {"task": "best_of_n", "preference": {"scorer": "exact", "beta": 0.2}},
            "preference.beta does nothing in task best_of_n",
        ),
        ({"task": "kto", "keep": {"rows": "old", "replay": 0.1}}, "keep.replay is for task sft"),
        ({"task": "grpo", "preference": {"scorer": "exact", "num_generations": 3}}, "must be a multiple"),
        ({"task": "dpo", "method": "full"}, "trains LoRA"),
        ({"task": "dpo", "optim": {"patience": 2}, "data": {"eval_fraction": 0.5}}, "optim.patience is for"),
        ({"task": "kto", "optim": {"batch_size": 1}}, "at least 2"),
        ({"task": "reward", "quantization": "nf4"}, "set quantization = none"),
    ],
)
def test_what_a_task_cannot_do_is_refused(changed: dict[str, Any], problem: str) -> None:
    table = {"base": "b", "output": "o", **changed, "data": {"train": "t", **changed.get("data", {})}}
    with pytest.raises(InvalidConfig, match=problem):
        parse_config(table)


def test_a_task_survives_its_own_file(config: TrainConfig, make: Make) -> None:
    wanted = make("grpo", PROMPTS, {}, scorer="exact", beta=0.1, num_generations=4)
    (config.output.parent / "run.toml").write_text(dump_config(wanted))

    assert parse_config(tomllib.loads(dump_config(wanted))) == wanted


def test_imitation_takes_no_other_task(make: Make) -> None:
    with pytest.raises(InvalidConfig, match=r"training\.tasks\.run"):
        train.run(make("dpo", PROMPTS, {}))


@pytest.mark.parametrize(
    ("scorer", "answer", "score"),
    [
        ("exact", " red ", 1),
        ("exact", "blue", 0),
        ("regex:^r.d$", "red", 1),
        ("regex:^x", "red", 0),
        ("length:4", "red", 0.75),
        ("length:4", "a long answer", 0),
        ("tests.training.preference.toys:share_of_e", "ex", 0.5),
    ],
)
def test_rules_score(make: Make, scorer: str, answer: str, score: float) -> None:
    rows = [record(answer="red")]
    assert rule_scorer(make("grpo", PROMPTS, {}, scorer=scorer), rows)(rows, [answer]) == [score]


@pytest.mark.parametrize("scorer", ["exact", "best", "regex:(", "length:many", "nowhere:f", "json:nothing"])
def test_scorers_that_cannot_be_are_refused(make: Make, scorer: str) -> None:
    with pytest.raises(InvalidConfig, match=r"preference\.scorer"):
        rule_scorer(make("grpo", PROMPTS, {}, scorer=scorer), [record()])


def test_a_score_that_is_no_number_ends_the_run(make: Make) -> None:
    scorer = "tests.training.preference.toys:no_number"
    config = make("best_of_n", PROMPTS, {}, scorer=scorer, max_completion_length=2, num_generations=2)
    with pytest.raises(InvalidScore, match="return a finite number"):
        run(config)


def test_a_scorer_that_breaks_down_is_named(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidConfig, match="broken_module:f cannot be imported: ZeroDivisionError"):
        rule_scorer(make("grpo", PROMPTS, {}, scorer="broken_module:f"), [record()])
    scorer = rule_scorer(make("grpo", PROMPTS, {}, scorer="tests.training.preference.toys:of_a_key"), [])
    with pytest.raises(InvalidScore, match="of_a_key raised KeyError: 'grade'"):
        scorer([record()], ["red"])


@pytest.mark.parametrize("task", ["grpo", "rloo"])
def test_prompts_that_fill_no_step_are_refused(task: str, make: Make) -> None:
    config = make(task, PROMPTS, {"batch_size": 8}, scorer="exact", num_generations=4)
    with pytest.raises(InvalidData, match="a step answers 2 prompts, and there are 1"):
        run(config)


def test_a_policy_without_its_reward_model_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="not written by a run"):
        run(make("grpo", PROMPTS, {}, reward_model=tmp_path / "none"))


def test_a_folder_that_scores_nothing_is_no_reward_model(make: Make, tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text(json.dumps({"config": {"task": "sft"}}))
    for folder, problem in ((tmp_path, "another task"), (tmp_path / "none", "not written by a run")):
        with pytest.raises(InvalidConfig, match=problem):
            run(make("best_of_n", PROMPTS, {}, reward_model=folder))


def test_rows_too_long_are_named_and_labels_must_differ(make: Make) -> None:
    row = {"prompt": "word " * 200, "completion": "b", "label": True}
    for rows, problem in (
        ([row], "line 1: it is .* tokens long"),
        ([row | {"prompt": "a"}], "one label only"),
    ):
        with pytest.raises(TrainingError, match=problem):
            run(make("kto", rows, {}))


def test_rows_of_one_prompt_stay_together(write_jsonl: Callable[..., Path]) -> None:
    rows = [{"prompt": f"p{index % 4}", "n": index} for index in range(12)]
    train_rows, held = split_records(read_records(write_jsonl(rows), ("prompt",)), 0.25, 0)
    assert (len(train_rows), len(held)) == (9, 3)
    assert len({row.prompt[0]["content"] for row in held}) == 1


def test_rows_without_answers_judge_no_adapter(
    make: Make, pairs: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make("dpo", pairs, {})
    config = replace(config, data=replace(config.data, eval_fraction=0.25))
    path = config.output.with_name("run.toml")
    path.write_text(dump_config(config))
    words = ["--register", "localhost:1", "--name", "n", "--alias", "prod"]
    assert main(["train", str(path), *words]) == 2
    assert "judges by answers, which rows of task dpo do not have" in capsys.readouterr().err
    story = {"config": json.loads(json.dumps(asdict(config), default=str))}
    (tmp_path / "training.json").write_text(json.dumps(story))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InvalidConfig, match="rows of task dpo have no answers to be judged by: give --eval"):
        open_trained(tmp_path)


@pytest.mark.parametrize("method", ["full", "freeze_full"])
def test_the_command_refuses_to_register_a_model_before_it_trains(
    method: str, config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config.output.with_name("run.toml")
    path.write_text(dump_config(replace(config, method=method, lora=LoraSection())))
    assert main(["train", str(path), "--register", "localhost:1", "--name", "n"]) == 2
    said = capsys.readouterr().err
    assert f"method {method} makes a model" in said and "lorikeet extract" in said
    assert not config.output.exists()


def test_the_command_refuses_to_register_a_reward_model(
    make: Make, pairs: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config = make("reward", pairs, {})
    path = config.output.with_name("run.toml")
    path.write_text(dump_config(config))
    assert main(["train", str(path), "--register", "localhost:1", "--name", "n"]) == 2
    assert "is not served" in capsys.readouterr().err
    assert main(["train", "check", str(path)]) == 1
    assert "task reward" in capsys.readouterr().out
