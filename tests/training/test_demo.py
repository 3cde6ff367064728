from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.configfile import read_config
from training.demo import base as base_module
from training.demo import clauses, notes, payments
from training.demo.base import BaseRecipe, build_base
from training.demo.build import build_demo
from training.demo.skills import RECIPES, SkillRecipe, risk_of, rows, verdict
from training.demo.world import documents
from training.progress import Progress


@pytest.fixture(params=RECIPES, ids=lambda recipe: recipe.name)
def recipe(request: pytest.FixtureRequest) -> SkillRecipe:
    chosen: SkillRecipe = request.param
    return chosen


def test_rows_are_seeded(recipe: SkillRecipe) -> None:
    assert rows(recipe, 1) == rows(recipe, 1)
    assert rows(recipe, 1) != rows(recipe, 2)


def test_held_out_rows_never_occur_in_train(recipe: SkillRecipe) -> None:
    train, held = rows(recipe, 0)
    assert len(held) >= 100
    assert not {row.prompt for row in train} & {row.prompt for row in held}
    assert len({row.prompt for row in train + held}) == len(train) + len(held)


def test_answers_are_balanced(recipe: SkillRecipe) -> None:
    for split in rows(recipe, 0):
        counts = Counter(row.completion for row in split)
        assert set(counts) == set(recipe.answers)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_no_prompt_gives_its_answer_away(recipe: SkillRecipe) -> None:
    train, held = rows(recipe, 0)
    assert not [row for row in train + held if row.completion in row.prompt]


def test_there_are_enough_labels_and_codes() -> None:
    assert len(clauses.LABELS) >= 8 and len(notes.CODES) >= 8


def test_the_base_never_reads_an_answer_to_a_paper() -> None:
    papers = [d.text for d in islice(documents(3), 3000) if d.text]
    answers = [*notes.CODES, *(verdict(risk) for risk in ("low", "medium", "high"))]
    assert not [text for text in papers for answer in answers if answer in text]
    chats = [content for d in islice(documents(3), 3000) for _, content in d.turns]
    assert not [text for text in chats for answer in answers if answer in text]


def test_documents_are_seeded() -> None:
    assert list(islice(documents(1), 50)) == list(islice(documents(1), 50))
    assert list(islice(documents(1), 50)) != list(islice(documents(2), 50))


@pytest.mark.parametrize("points", range(4))
def test_the_risk_rule_counts_three_traits(points: int) -> None:
    traits = [index < points for index in range(3)]
    large, far, night = traits
    paid = payments.payment(Random(points), large=large, far=far, night=night)
    assert paid.points == points
    assert risk_of(points) == ("low", "medium", "high", "high")[points]
    assert ("," in paid.amount) == large
    assert (paid.clock < "05:00") == night


def test_the_base_is_an_ordinary_folder(base: Path, micro: BaseRecipe) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    assert model.config.tie_word_embeddings and model.config.vocab_size % 64 == 0
    assert len(tokenizer) <= model.config.vocab_size
    ends = tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id)
    assert ends == ["<|eos|>", "<|end|>"]
    assert "chat_template" in json.loads((base / "tokenizer_config.json").read_text())
    text = "Überraschung: 12,50 €\n\tand <b>more</b>"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_a_base_is_built_once_and_the_same_each_time(base: Path, micro: BaseRecipe, tmp_path: Path) -> None:
    seen: list[Progress] = []
    assert build_base(base, seen.append, micro) == base
    assert not seen
    again = build_base(tmp_path / "again", seen.append, micro)
    assert [progress.step for progress in seen] == [1, 2, 3]
    assert (again / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def test_another_recipe_replaces_the_base(base: Path, micro: BaseRecipe, tmp_path: Path) -> None:
    folder = build_base(tmp_path / "base", recipe=micro)
    before = (folder / "model.safetensors").read_bytes()
    build_base(folder, recipe=replace(micro, seed=micro.seed + 1))
    assert (folder / "model.safetensors").read_bytes() != before


def test_a_build_that_is_killed_leaves_nothing_half_done(
    micro: BaseRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(base_module, "pretrain", killed)
        with pytest.raises(KeyboardInterrupt):
            build_base(tmp_path / "base", recipe=micro)
    assert not list(tmp_path.iterdir())


def test_a_demo_is_built_once_and_its_runs_can_be_repeated(micro: BaseRecipe, tmp_path: Path) -> None:
    small = tuple(replace(recipe, num_train=10, num_heldout=10, epochs=3.0) for recipe in RECIPES[:2])
    seen: list[Progress] = []
    demo = build_demo(tmp_path, seen.append, micro, small)
    assert [skill.name for skill in demo.skills] == ["legal", "medical"]
    assert {progress.phase for progress in seen} == {"base", "legal", "medical"}
    assert all((skill.adapter_folder / "adapter_model.safetensors").exists() for skill in demo.skills)
    config = read_config(tmp_path / "skills" / "legal" / "run.toml")
    assert Path(config.base).resolve() == demo.base.resolve()

    seen.clear()
    assert build_demo(tmp_path, seen.append, micro, small) == demo
    assert not seen
    demo.skills[0].adapter_folder.joinpath("adapter_config.json").unlink()
    assert build_demo(tmp_path, seen.append, micro, small) == demo
    assert {progress.phase for progress in seen} == {"legal"}
