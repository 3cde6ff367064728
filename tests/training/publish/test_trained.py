"""What the gate needs to know of a folder, and where it asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from training.data import Row
from training.errors import InvalidConfig, InvalidData
from training.publish.trained import open_trained

Colors = Callable[[int], Path]


def test_a_folder_tells_its_base_and_its_rows(colors: Colors, base: Path) -> None:
    trained = open_trained(colors(6))
    assert trained.config.base == str(base) and len(trained.held) == 12
    ids = trained.prompt_ids(trained.held[0])
    assert trained.tokenizer.decode(ids).endswith("<|assistant|>")
    assert "Color of the kettle?" in trained.tokenizer.decode(ids)


def test_a_prompt_is_all_before_the_last_answer(colors: Colors) -> None:
    trained = open_trained(colors(6))
    turns = [("user", "Hello"), ("assistant", "Hi."), ("user", "Color?"), ("assistant", "red")]
    row = Row(1, tuple({"role": role, "content": content} for role, content in turns), plain=False)
    text = trained.tokenizer.decode(trained.prompt_ids(row))
    assert "Hi." in text and text.endswith("<|assistant|>") and "red" not in text
    plain = replace(
        trained, config=replace(trained.config, data=replace(trained.config.data, format="plain"))
    )
    text = plain.tokenizer.decode(plain.prompt_ids(trained.held[0]), skip_special_tokens=True)
    assert text == "Color of the kettle?"


def test_a_folder_of_another_trainer_is_told_about(copied: Colors, base: Path, tmp_path: Path) -> None:
    folder = copied(6)
    (folder / "training.json").unlink()
    with pytest.raises(InvalidConfig) as caught:
        open_trained(folder)
    assert [problem.rpartition(": ")[2] for problem in caught.value.problems] == [
        "give --base",
        "give --eval FILE.jsonl",
    ]
    with pytest.raises(InvalidConfig, match="only adapters are published"):
        open_trained(tmp_path, base=str(base))
    rows = tmp_path / "own.jsonl"
    rows.write_text('{"prompt": "Color of the tent?", "completion": "green"}\n')
    assert len(open_trained(folder, base=str(base), rows=rows).held) == 1


def test_rows_that_changed_since_are_no_measure(copied: Colors, tmp_path: Path) -> None:
    folder = copied(6)
    story = (folder / "training.json").read_text()
    path = open_trained(folder).config.data.train
    moved = tmp_path / "moved.jsonl"
    (folder / "training.json").write_text(story.replace(str(path), str(moved)))
    with pytest.raises(InvalidData, match="is gone: give held-out rows by --eval"):
        open_trained(folder)
    moved.write_text(path.read_text() + '{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(InvalidData, match="not those of training any more"):
        open_trained(folder)
