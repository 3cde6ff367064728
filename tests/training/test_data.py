from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.data import read_rows, split_rows
from training.errors import InvalidData

GOOD = {"prompt": "a", "completion": "b"}
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", "line 2: not JSON"),
        ("[1]", "line 2: a row is a JSON object"),
        ({"prompt": "a"}, "line 2: completion missing"),
        ({}, "line 2: prompt and completion missing"),
        ({"prompt": "a", "completion": "  "}, "line 2: completion must be text that is not empty"),
        ({"prompt": "", "completion": "b"}, "line 2: prompt must be text"),
        ({"prompt": 3, "completion": "b"}, "line 2: prompt must be text"),
        (r'{"prompt": "\ud800", "completion": "b"}', "line 2: it has half of a letter"),
        ('{"prompt": ' + "[" * 100000, "line 2: its brackets are nested too deep"),
        ('{"prompt": ' + "9" * 5000 + "}", "line 2: .*digits"),
        ({"messages": []}, "line 2: messages must be a list"),
        ({"messages": "hi"}, "line 2: messages must be a list"),
        ({"messages": [{"role": "user"}]}, r"line 2: messages\[0\] needs a role and a content"),
        ({"messages": [{"role": "bot", "content": "x"}]}, r"line 2: messages\[0\] has role 'bot'"),
        ({"messages": TURNS[:1]}, "line 2: the last message must be the assistant's"),
        ({"messages": TURNS[1:]}, "line 2: an assistant turn needs a turn before it"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": ""}]}, "line 2: .* empty assistant turn"),
    ],
)
def test_bad_rows_are_named_by_line(write_jsonl: Callable[..., Path], row: Any, message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        read_rows(write_jsonl([GOOD, row]))


def test_all_bad_lines_are_listed_at_once(write_jsonl: Callable[..., Path]) -> None:
    with pytest.raises(InvalidData) as caught:
        read_rows(write_jsonl([{}] * 30))
    assert len(caught.value.problems) == 30
    assert "and 10 more" in str(caught.value)


def test_a_file_that_is_no_text_or_has_no_rows(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="cannot be read"):
        read_rows(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(InvalidData, match="has no rows"):
        read_rows(tmp_path / "empty.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}')
    with pytest.raises(InvalidData, match="not UTF-8"):
        read_rows(tmp_path / "latin.jsonl")


def test_a_mark_before_the_first_row_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "marked.jsonl").write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert len(read_rows(tmp_path / "marked.jsonl")) == 1


def test_both_kinds_of_row(write_jsonl: Callable[..., Path]) -> None:
    plain, chat = read_rows(write_jsonl([GOOD, "", {"messages": TURNS}]))
    assert (plain.line, plain.plain, plain.completion) == (1, True, "b")
    assert (chat.line, chat.plain, chat.prompt) == (3, False, TURNS[:1])


def test_unusual_line_separators_inside_a_string_do_not_split_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "a\u2028b\x85c", "completion": "d"}, ensure_ascii=False))
    assert read_rows(path)[0].prompt[0]["content"] == "a\u2028b\x85c"


def test_a_split_is_seeded_disjoint_and_keeps_equal_rows_together(write_jsonl: Callable[..., Path]) -> None:
    rows = read_rows(write_jsonl([{"prompt": str(i % 20), "completion": "x"} for i in range(40)]))
    train, held = split_rows(rows, 0.25, seed=1)
    assert (train, held) == split_rows(rows, 0.25, seed=1)
    assert held != split_rows(rows, 0.25, seed=2)[1]
    assert len(train) == 30 and len(held) == 10
    assert not {row.prompt[0]["content"] for row in train} & {row.prompt[0]["content"] for row in held}
