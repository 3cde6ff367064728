"""Situations and what is advised in them, as a table; and that the advice can be trained on."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorikeet.cli.main import main
from training.advise.advice import advise, offered_tasks
from training.advise.figures import figures
from training.advise.rules import RULES, SERVING
from training.advise.situation import DATA, Situation, situation_problems
from training.advise.starter import NotOffered, starter
from training.check.run import check
from training.configfile import parse_config
from training.memory.estimate import WORKSPACES

# What is asked, and what must be chosen.
TABLE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"task": "sft", "method": "lora", "quantization": "nf4", SERVING: "hot", "lora.rank": 8}),
    ({"memory": 24.0}, {"gradient_checkpointing": True, "optim.batch_size": 8}),
    ({"memory": 16.0, "row_tokens": 2048}, {"gradient_checkpointing": True, "optim.batch_size": 1}),
    ({"memory": 141.0}, {"gradient_checkpointing": False, "optim.accumulation": 1}),
    ({"held": "none", "memory": 141.0}, {"quantization": "none"}),
    ({"held": "none", "memory": 12.0}, {"quantization": "nf4"}),
    ({"data": "preferences"}, {"task": "dpo", "lora.rank": 8}),
    ({"data": "ratings"}, {"task": "kto"}),
    ({"data": "reward", "rows": 1_000_000}, {"task": "grpo", "lora.rank": 8}),
    ({"data": "scorer"}, {"task": "best_of_n"}),
    ({"rows": 1_000_000}, {"lora.rank": 16, "optim.epochs": 1.0}),
    ({"rows": 50_000_000, "parameters": 1.0, "memory": 80.0}, {"method": "full", SERVING: "as a base"}),
    ({"rows": 50_000_000, "parameters": 1.0, "tenants": 9}, {"method": "lora", "lora.rank": 256}),
    ({"latency": "lowest"}, {SERVING: "merge"}),
    ({"latency": "lowest", "tenants": 40}, {SERVING: "hot"}),
    ({"rows": 300}, {"optim.epochs": 3.0, "data.eval_fraction": 0.1}),
]


@pytest.mark.parametrize(("asked", "expected"), TABLE)
def test_the_table_of_situations(asked: dict[str, Any], expected: dict[str, Any]) -> None:
    advice = advise(Situation(**asked))
    assert {option: advice[option] for option in expected} == expected


@pytest.mark.parametrize("asked", [asked for asked, _ in TABLE])
def test_every_advice_is_a_run_whose_settings_are_valid(asked: dict[str, Any]) -> None:
    situation = Situation(**asked, base="some/base")
    advice = advise(replace(situation, base=None))
    if advice["task"] not in offered_tasks():
        with pytest.raises(NotOffered, match="there are no settings to write"):
            starter(advice, situation)
        assert any("does not do" in caution for caution in advice.cautions)
        return
    written = parse_config(tomllib.loads(starter(advice, situation)))
    assert written.quantization == advice["quantization"]
    assert written.optim.learning_rate is None
    if advice["method"] == "lora":
        assert written.lora.rank == advice["lora.rank"]


def test_every_choice_cites_a_rule_and_a_reason_without_holes() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    for data in DATA:
        for choice in advise(Situation(data=data)).choices:
            assert choice.rule in names
            assert "{" not in choice.why


@pytest.mark.parametrize("name", [rule.name for rule in RULES])
def test_every_rule_decides_somewhere_in_the_table(name: str) -> None:
    assert any(choice.rule == name for asked, _ in TABLE for choice in advise(Situation(**asked)).choices)


@pytest.mark.parametrize(
    ("asked", "caution"),
    [
        ({"parameters": 700.0, "memory": 24.0}, "nothing fits into 24 GiB"),
        ({"rows": 10}, "10 rows are few"),
        ({"continues": True}, "to keep old skills"),
        ({"latency": "lowest", "tenants": 5}, "a device for each tenant"),
        ({"rows": 50_000_000, "parameters": 1.0, "tenants": 9}, "exceed what an adapter holds"),
    ],
)
def test_cautions(asked: dict[str, Any], caution: str) -> None:
    assert any(caution in told for told in advise(Situation(**asked)).cautions)


def test_what_is_out_of_range() -> None:
    wrong = Situation(data="dreams", rows=0, row_tokens=10, answer_tokens=20)
    assert [problem.partition(" ")[0] for problem in situation_problems(wrong)] == [
        "--rows",
        "--data",
        "--answer-tokens",
    ]


def test_with_a_base_ranks_and_memory_come_from_its_shapes(base: Path) -> None:
    situation = Situation(base=str(base), rows=2000, answer_tokens=8, row_tokens=32, held="none")
    found = figures(situation)
    # One rank beside all linears of the micro base is 2,048 parameters.
    assert (found.bits, found.rank) == (16_000, 4)
    assert found.plan is not None and found.plan.peak < WORKSPACES / 2**30 + 0.01


def test_what_is_written_passes_the_check(
    base: Path,
    tmp_path: Path,
    write_jsonl: Callable[..., Path],
    color_rows: list[Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows, file = write_jsonl(color_rows), tmp_path / "run.toml"
    flags = ["--base", base, "--rows", len(color_rows), "--row-tokens", 64, "--answer-tokens", 8]
    command = ["train", "advise", *flags, "--train", rows, "--held", "none", "--write", file]
    assert main([str(word) for word in command]) == 0
    told = capsys.readouterr().out
    assert "16 rows are few" in told and "learning rate by formula: 0.0074" in told
    assert list(check(file).of("error")) == []
    assert main([str(word) for word in command]) == 2
    assert "is there already" in capsys.readouterr().err


def test_json_and_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "advise", "--memory", "24", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"option", "value", "rule", "why"} == set(told["choices"][0])
    assert main(["train", "advise", "--data", "dreams"]) == 2
    assert "--data must be completions or" in capsys.readouterr().err
