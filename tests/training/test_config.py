from __future__ import annotations

import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from training.config import DataConfig, LoraSection, OptimConfig, TrainConfig
from training.configfile import check_config, dump_config, option_help, parse_config, read_config
from training.errors import InvalidConfig
from training.idle import idle_options
from training.methods.settle import settled
from training.methods.table import METHODS

GOOD: dict[str, Any] = {"base": "some/base", "output": "out", "data": {"train": "rows.jsonl"}}


def test_reads_sections_and_resolves_paths_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    path = tmp_path / "run.toml"
    path.write_text(
        'base = "base"\noutput = "out"\nseed = 3\n[data]\ntrain = "rows.jsonl"\n'
        '[lora]\nrank = 8\nalpha = 16\ntargets = "all-linear"\n[lora.rank_pattern]\nq_proj = 4\n'
    )
    config = read_config(path)
    assert config.base == str(tmp_path / "base")
    assert (config.output, config.data.train) == (tmp_path / "out", tmp_path / "rows.jsonl")
    assert config.lora == LoraSection(rank=8, alpha=16.0, rank_pattern={"q_proj": 4})
    assert config.seed == 3


def test_a_hub_id_stays_as_it_is() -> None:
    assert parse_config(GOOD).base == "some/base"


def test_unknown_keys_are_named_with_close_matches() -> None:
    table = GOOD | {"lora": {"rnk": 8}, "sed": 1, "learning_rate": 1.0, "zebra": 1}
    with pytest.raises(InvalidConfig) as caught:
        parse_config(table)
    text = str(caught.value)
    assert "lora.rnk is not an option: did you mean lora.rank" in text
    assert "sed is not an option: did you mean seed" in text
    assert "learning_rate is not an option: did you mean optim.learning_rate?" in text
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"seed": "1"}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"overwrite": 1}, "overwrite must be true or false"),
        ({"lora": 3}, "lora is a section"),
        ({"lora": {"targets": [1]}}, "lora.targets must be a list"),
        ({"lora": {"layers_to_transform": []}}, "lora.layers_to_transform must be a list"),
        ({"lora": {"rank_pattern": 3}}, "lora.rank_pattern must be a table"),
        ({"lora": {"rank": 0}}, "lora.rank must be at least 1"),
        ({"lora": {"dropout": 1.0}}, "shares below 1"),
        ({"optim": {"learning_rate": float("nan")}}, "optim.learning_rate must be at least 0"),
        ({"quantization": "int3"}, "quantization must be none or nf4 or int8"),
        ({"method": "bottleneck"}, "method 'bottleneck' is not offered: .* AdapterHub.* transformers 4.57"),
        ({"method": "magic"}, "method must be lora or qlora or"),
        ({"task": "dance"}, "task must be sft"),
        ({"method": "qlora", "quantization": "int8"}, "quantization = 'int8' contradicts method qlora"),
        ({"method": "ia3", "lora": {"dora": True}}, "lora.dora does nothing in method ia3"),
        ({"method": "pissa", "quantization": "nf4"}, "use loftq, or quantization = none"),
        ({"method": "olora", "lora": {"dora": True}}, "cannot be converted back under DoRA"),
        ({"lora": {"init": "loftq"}}, "set quantization = nf4"),
        ({"method": "freeze", "lora": {"layers_to_transform": [1]}}, "both choose layers"),
        ({"method": "vera", "optim": {"lora_plus_ratio": 4}}, "tells B from A: method vera has neither"),
        ({"optim": {"unfreeze_groups": 2}}, "go together: give both"),
        (
            {"method": "prompt_tuning", "optim": {"unfreeze_groups": 2, "unfreeze_every": 1}},
            "method prompt_tuning cannot",
        ),
        ({"method": "prefix_tuning", "gradient_checkpointing": True}, "leave one of them out"),
        ({"keep": {"replay": 0.5}}, "name their JSONL file in keep.rows"),
        ({"keep": {"rows": "old.jsonl"}}, "keep.rows alone does nothing"),
        ({"keep": {"rows": "old.jsonl", "replay": 1}}, "keep.replay is a share below 1"),
        ({"keep": {"rows": "old.jsonl", "ewc": 1}}, "name it in init_from"),
        ({"method": "adalora", "adalora": {"warmup": 0.5, "final": 0.5}}, "leave some between them"),
        ({"adalora": {"prune_every": 3}}, "adalora.prune_every does nothing in method lora"),
        ({"method": "p_tuning", "prompt": {"text": "Hi"}}, "prompt.text does nothing in method p_tuning"),
        ({"method": "adalora", "adalora": {"start_rank": 8}}, "must be at least that"),
        (
            {"method": "pissa", "lora": {"rslora": True, "rank_pattern": {"q_proj": 4}}},
            "cannot be converted back with lora.rslora and a pattern",
        ),
        ({"method": "full", "lora": {"rank": 8}}, "lora.rank does nothing in method full: leave it out"),
        ({"method": "freeze_full", "lora": {"alpha": 8}}, "lora.alpha does nothing in method freeze_full"),
        ({"method": "full", "lora": {"targets": "q_proj"}}, "lora.targets does nothing in method full"),
        ({"method": "prompt_tuning", "lora": {"rank": 8}}, "lora.rank does nothing in method prompt_tuning"),
        ({"method": "prefix_tuning", "lora": {"dropout": 0.1}}, "lora.dropout does nothing in method prefix"),
        (
            {"method": "p_tuning", "lora": {"layers_to_transform": [0]}},
            "lora.layers_to_transform does nothing in method p_tuning",
        ),
        ({"method": "ia3", "lora": {"rank": 8}}, "lora.rank does nothing in method ia3"),
        ({"method": "ia3", "lora": {"layers_to_transform": [0]}}, "layers_to_transform does nothing in"),
        ({"method": "vera", "lora": {"alpha": 8}}, "lora.alpha does nothing in method vera"),
        ({"quant_storage": "bfloat16"}, "quant_storage is for 4-bit codes: .* quantization = nf4"),
        ({"optim": {"eval_every": 5}}, "optim.eval_every needs held-out rows"),
        ({"evaluation": {"max_rows": 5}}, "evaluation.max_rows is for answers"),
        (
            {"method": "dora", "evaluation": {"intruders": 5}},
            "evaluation.intruders are counted in plain LoRA",
        ),
        ({"keep": {"fisher_rows": 5}}, "keep.fisher_rows is for ewc"),
        ({"lora": {"alpha": 0}}, "lora.alpha = 0 scales the adapter to nothing"),
        ({"lora": {"rank_pattern": {"q_proj": 0}}}, r"lora.rank_pattern\['q_proj'\] must be at least 1"),
        ({"optim": {"learning_rate": float("inf")}}, "optim.learning_rate must be a finite number"),
        ({"optim": {"learning_rate": -1.0}}, "optim.learning_rate must be at least 0"),
        ({"base": "/nowhere/model"}, "base: /nowhere/model is no folder"),
        ({"data": {"train": "a\0b"}}, "data.train must be a path"),
        ({"seed": 2**32}, "seed must be at most 4294967295"),
        ({"threads": 2**40}, "threads must be at most 4096"),
        ({"lora": {"rank": 5000}}, "lora.rank must be at most 4096"),
        (
            {"method": "pissa", "lora": {"rank": 4000}},
            "saved with twice lora.rank, of which 4096 is the most",
        ),
        ({"lora": {"targets": ["all-linear", "q_proj"]}}, "names every linear already"),
        ({"optim": {"max_steps": 4, "warmup_steps": 4}}, "optim.warmup_steps takes all 4 steps"),
        ({"method": "prompt_tuning", "prompt": {"text": ""}}, "prompt.text has no words"),
        ({"base": ""}, "base is missing: name the folder or hub id"),
        ({"last_layers": 1}, "last_layers is for the freeze methods"),
        ({"lora": {"eva_rho": 2.0}}, "lora.eva_rho does nothing without"),
        ({"method": "full", "init_from": "old"}, "name the model's folder as base"),
        ({"method": "p_tuning", "init_from": "old"}, "p-tuning saves its tokens and not their encoder"),
        ({"method": "freeze", "init_from": "old"}, "use method lora instead of freeze"),
        ({"method": "adalora", "init_from": "old"}, "cannot begin again"),
        ({"method": "eva", "init_from": "old"}, "are two starts: keep one"),
        ({"optim": {"patience": 2}}, "optim.patience needs held-out rows"),
        ({"optim": {"epochs": 0}}, "optim.epochs must be more than 0"),
        ({"data": {"train": "a", "eval": "b", "eval_fraction": 0.1}}, "exclude each other"),
    ],
)
def test_mistakes_are_told_apart(table: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        parse_config(GOOD | table)


def test_an_idle_option_that_says_what_holds_anyway_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = {"method": "full", "lora": {"rank": 16, "layers_to_transform": [0]}, "quant_storage": "auto"}
    config = parse_config(GOOD | said)
    assert caplog.messages == [
        "lora.rank does nothing in method full: leave it out",
        "quant_storage is for 4-bit codes: leave it out, or set quantization = nf4",
    ]
    caplog.clear()
    (tmp_path / "run.toml").write_text(dump_config(config))
    assert "rank" not in dump_config(config)
    assert read_config(tmp_path / "run.toml").lora == config.lora
    assert caplog.messages == []


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_what_it_reads_told(method: str) -> None:
    config = parse_config(GOOD | {"method": method})
    assert parse_config(tomllib.loads(dump_config(config))) == config
    assert set(idle_options(config)) <= set(option_help())


def test_a_method_fills_in_what_it_stands_for_and_nothing_that_was_said() -> None:
    assert parse_config(GOOD | {"method": "qlora"}).quantization == "nf4"
    assert parse_config(GOOD | {"method": "dora"}).lora == LoraSection(dora=True)
    loftq = parse_config(GOOD | {"method": "loftq"})
    assert (loftq.quantization, loftq.lora.init) == ("nf4", "loftq")
    assert settled(loftq) == loftq
    assert parse_config(GOOD | {"method": "lora_plus"}).optim.lora_plus_ratio == 16.0
    said = parse_config(GOOD | {"method": "lora_plus", "optim": {"lora_plus_ratio": 4}})
    assert said.optim.lora_plus_ratio == 4.0


def test_required_fields_are_all_named_at_once() -> None:
    with pytest.raises(InvalidConfig) as caught:
        check_config(TrainConfig())
    assert len(caught.value.problems) == 3


def test_no_file_and_no_toml(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="cannot be read"):
        read_config(tmp_path / "none.toml")
    for text in (b"base = ", 'base = "\xe9"'.encode("latin-1")):
        (tmp_path / "bad.toml").write_bytes(text)
        with pytest.raises(InvalidConfig, match="is not TOML"):
            read_config(tmp_path / "bad.toml")


def test_a_mark_before_the_first_letter_is_no_mistake(tmp_path: Path) -> None:
    text = 'base = "b"\noutput = "o"\n[data]\ntrain = "t"\n'
    (tmp_path / "run.toml").write_text(text, encoding="utf-8-sig")
    assert read_config(tmp_path / "run.toml").base == "b"


def test_a_dumped_config_reads_back(tmp_path: Path) -> None:
    config = TrainConfig(
        base="some/base",
        output=tmp_path / "out",
        data=DataConfig(train=tmp_path / "rows.jsonl", eval_fraction=0.5),
        lora=LoraSection(
            rank_pattern={r"layers\.0\.q": 2}, alpha_pattern={"q": 1.5}, layers_to_transform=(0, 1)
        ),
        optim=OptimConfig(max_steps=5, patience=2, learning_rate=1e-05),
        quantization="nf4",
        gradient_checkpointing=True,
    )
    (tmp_path / "run.toml").write_text(dump_config(config))
    assert read_config(tmp_path / "run.toml") == config


def test_every_option_has_help_text() -> None:
    assert all(option_help().values())
    sections = [item for item in fields(TrainConfig) if is_dataclass(getattr(TrainConfig(), item.name))]
    assert {"data.train", "lora.rank", "optim.patience", "seed"} <= set(option_help())
    assert all(section.metadata["help"] for section in sections)
