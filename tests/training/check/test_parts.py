"""Each part of a check, on the smallest thing that shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from training.check.capacity import capacity, find_capacity, row_bits
from training.check.coding import code_rows
from training.check.data import data_facts, find_alike, find_lost, find_overlong, preview
from training.check.ending import find_endings, find_untrained
from training.check.likeness import leaked, repeated
from training.check.model import find_untouched, model_facts
from training.check.recipe import find_weakness
from training.check.report import MAX_TOLD, CheckReport
from training.config import DataConfig, LoraSection, OptimConfig, TrainConfig
from training.data import Row, read_rows
from training.memory.skeleton import skeleton
from training.model import load_tokenizer


def row(line: int, prompt: str, completion: str = "yes") -> Row:
    turns = ({"role": "user", "content": prompt}, {"role": "assistant", "content": completion})
    return Row(line, turns, plain=True)


def rules(report: CheckReport) -> list[tuple[str, str]]:
    return [(found.level, found.rule) for found in report.findings]


def test_rows_alike_are_found_exactly_and_loosely() -> None:
    rows = [row(1, "Is it red?"), row(2, "Is it red?"), row(3, "is it  RED"), row(4, "Is it blue?")]
    assert repeated(rows, loosely=False) == [(2, 1)]
    assert repeated(rows, loosely=True) == [(2, 1), (3, 1)]
    assert repeated([row(1, "a", "1"), row(2, "a", "2")], loosely=True) == []


def test_leaks_are_found_by_row_and_by_question() -> None:
    train, held = [row(1, "Is it red?"), row(2, "Is it red?")], [row(1, "is it red", "no"), row(2, "New?")]
    assert leaked(train, held, questions=False) == []
    assert leaked(train, held, questions=True) == [(1, 1)]
    report = CheckReport()
    find_alike(train, held, report)
    assert rules(report) == [("warning", "repeated"), ("warning", "leakage")]
    report = CheckReport()
    find_alike(train[:1], [row(7, "IS IT RED", "Yes!")], report)
    assert rules(report) == [("error", "leakage")]
    assert "line 7 like line 1" in report.findings[0].text


def test_a_preview_shows_what_is_learned(base: Path, write_jsonl: Callable[..., Path]) -> None:
    rows = read_rows(write_jsonl([{"prompt": "Where?", "completion": "Here."}]))
    tokenizer = load_tokenizer(str(base))
    coding = code_rows(rows, tokenizer, DataConfig())
    pieces = preview(coding.fitting[0].example, tokenizer)
    assert [(piece.text, piece.learned) for piece in pieces] == [
        ("<|bos|><|user|>Where?<|end|><|assistant|>", False),
        ("Here.<|end|>", True),
    ]


def test_lost_rows_are_counted_and_too_many_are_an_error(base: Path) -> None:
    tokenizer = load_tokenizer(str(base))
    rows = [row(1, "short"), row(2, "long " * 50), row(3, "short", "too")]
    data = DataConfig(max_length=40, too_long="drop")
    coding = code_rows(rows, tokenizer, data)
    assert [coded.row.line for coded in coding.fitting] == [1, 3]
    report = CheckReport()
    find_lost(coding, data, 0.5, report)
    assert rules(report) == [("warning", "length")]
    find_lost(coding, data, 0.1, report)
    assert rules(report)[-1] == ("error", "lost")
    assert data_facts(coding, [], tokenizer, 1).too_long == 1


def test_rows_beyond_the_bases_positions() -> None:
    report = CheckReport()
    find_overlong(100, 100, report)
    find_overlong(100, None, report)
    assert rules(report) == []
    find_overlong(101, 100, report)
    assert rules(report) == [("warning", "length")]


def test_a_template_that_leaves_the_answer_out_masks_every_row(base: Path) -> None:
    tokenizer = load_tokenizer(str(base))
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% generation %}{% endgeneration %}"
    )
    coding = code_rows([row(1, "a")], tokenizer, DataConfig())
    assert coding.masked and not coding.fitting
    report = CheckReport()
    find_lost(coding, DataConfig(), 0.1, report)
    assert rules(report) == [("warning", "masked"), ("error", "lost")]


def test_an_end_that_no_server_stops_at(base: Path) -> None:
    tokenizer = load_tokenizer(str(base))
    coded = code_rows([row(1, "a")], tokenizer, DataConfig()).fitting
    structure, report = AutoConfig.from_pretrained(base), CheckReport()
    find_endings(coded, tokenizer, structure, DataConfig(), report)
    assert rules(report) == []
    structure.eos_token_id, structure._name_or_path = None, ""
    find_endings(coded, tokenizer, structure, DataConfig(), report)
    assert rules(report) == [("warning", "endings")]
    assert "<|end|>" in report.findings[0].text


def test_padding_with_the_end_and_templates_without_marks_are_told(base: Path) -> None:
    tokenizer = load_tokenizer(str(base))
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = tokenizer.chat_template.replace("{%- generation -%}", "").replace(
        "{%- endgeneration -%}", ""
    )
    coded, report = code_rows([row(1, "a")], tokenizer, DataConfig()).fitting, CheckReport()
    find_endings(coded, tokenizer, AutoConfig.from_pretrained(base), DataConfig(), report)
    assert rules(report) == [("warning", "padding"), ("note", "template")]


def test_template_tokens_that_the_base_never_learned(base: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(base))
    coded, report = code_rows([row(1, "a")], tokenizer, DataConfig()).fitting, CheckReport()
    find_untrained(str(base), coded, tokenizer, report)
    assert rules(report) == []
    weights = load_file(base / "model.safetensors")
    table = weights["model.embed_tokens.weight"].clone()
    table[tokenizer.convert_tokens_to_ids("<|end|>")] = 1e-6
    save_file({"model.embed_tokens.weight": table}, tmp_path / "model.safetensors")
    find_untrained(str(tmp_path), coded, tokenizer, report)
    assert rules(report) == [("warning", "template")]
    assert "'<|end|>' of the chat template" in report.findings[0].text


def test_what_is_trained_and_what_is_not(base: Path) -> None:
    config = TrainConfig(base=str(base), lora=LoraSection(rank=4, targets=("q_proj", "down_proj")))
    model = skeleton(config, torch.float32)
    facts = model_facts(model)
    assert facts.adapted == ["down_proj", "q_proj"]
    assert facts.untouched == ["gate_proj", "k_proj", "o_proj", "up_proj", "v_proj"]
    assert facts.pair_width == 2 * (64 + 64 + 128 + 64)
    assert facts.trained_parameters == 4 * facts.pair_width
    report = CheckReport()
    find_untouched(facts, model, report)
    assert rules(report) == []
    find_untouched(replace(facts, trained_parameters=0), model, report)
    assert rules(report) == [("error", "untouched")]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"learning_rate": 1e-3}, []),
        ({"learning_rate": 1e-5}, ["rate"]),
        ({"learning_rate": 1e-1}, ["rate"]),
        ({"batch_size": 16, "accumulation": 4}, ["batch"]),
    ],
)
def test_weak_recipes(base: Path, changes: dict[str, Any], expected: list[str]) -> None:
    config = TrainConfig(data=DataConfig(eval_fraction=0.1), optim=OptimConfig(**changes))
    report = CheckReport()
    find_weakness(config, model_facts(skeleton(TrainConfig(base=str(base)), torch.float32)), 1e-3, report)
    assert [found.rule for found in report.findings] == expected


def test_attention_alone_and_nothing_held_out(base: Path) -> None:
    config = TrainConfig(base=str(base), lora=LoraSection(targets=("q_proj", "v_proj")))
    report = CheckReport()
    find_weakness(config, model_facts(skeleton(config, torch.float32)), 1e-3, report)
    assert rules(report) == [("warning", "targets"), ("warning", "held-out")]


def test_bits_of_rows_against_bits_of_ranks() -> None:
    noise = [bytes(torch.randint(33, 126, (400,)).tolist()).decode() for _ in range(50)]
    assert row_bits(noise, 20_000, 50_000) > 4 * 20_000
    assert row_bits(["the same"] * 1000, 3000, 50_000) < 600
    assert row_bits(noise, 10, 1024) == 100
    found = capacity(100_000, rank=8, pair_width=1000)
    assert (found.adapter_bits, found.enough) == (16_000, 64)
    assert capacity(10**9, 8, 1000).enough == 256
    report = CheckReport()
    find_capacity(found, report)
    find_capacity(capacity(1000, 256, 1000), report)
    assert rules(report) == [("warning", "capacity"), ("note", "capacity")]


def test_a_report_counts_what_it_does_not_list() -> None:
    report = CheckReport()
    report.add("error", "rows", [f"line {n}" for n in range(MAX_TOLD + 5)])
    assert len(report.findings) == MAX_TOLD + 1
    assert report.findings[-1].text == "and 5 more like these"
    assert not report.passed
    report.allow(["rows"])
    assert report.passed
