"""Tokenizers of strangers are refused before anything else loads them, whatever they do to the library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapters import BaseShapes, InvalidAdapter
from adapters.sandbox import Sandbox
from adapters.tokenizer_check import check_config, check_special_tokens, check_tokenizer

FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
# A merge whose second half is cut in the middle of a character: the library aborts its process over it.
ABORTING = {"vocab": {"a": 0, "é": 1, "aé": 2}, "merges": ["a é"], "continuing_subword_prefix": "#"}


def tokenizer(model: dict[str, Any] | None = None, **parts: Any) -> str:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [], **(model or {})}
    return json.dumps({"version": "1.0", "added_tokens": [], "model": model, **parts})


def added(token_id: int, content: str = "<new>") -> list[dict[str, Any]]:
    return [{"id": token_id, "content": content, **FLAGS}]


def problem_of(check: Any, text: str) -> str:
    with pytest.raises(InvalidAdapter) as caught:
        check(text, "file.json")
    return caught.value.problems[0]


def test_what_the_library_understands_is_taken() -> None:
    check_tokenizer(tokenizer(added_tokens=[*added(2), *added(0, "a")]), "tokenizer.json")
    padding = {"direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}
    # A billion tokens of padding, which nobody asks for.
    padding |= {"strategy": {"Fixed": 10**9}, "pad_token": "a"}
    check_tokenizer(tokenizer(padding=padding), "tokenizer.json")


@pytest.mark.parametrize(
    "text",
    [
        '{"model": {"type": "BPE"}}',
        tokenizer({"merges": ["a z"]}),
        tokenizer({"type": "WordLevel", "vocab": {"b": 0}, "unk_token": "<unk>"}),
        tokenizer({"type": "Unigram", "vocab": [], "unk_id": 5}),
        tokenizer({"type": "Unigram", "vocab": [["x", 0.0]], "unk_id": None}),
        tokenizer(added_tokens=[{"id": 2, "content": "<new>"}]),
        tokenizer(normalizer={"type": "Unheard"}),
        # Panics.
        tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8AAAA="}),
        tokenizer(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
                "pair": [],
                "special_tokens": {},
            }
        ),
    ],
)
def test_what_it_fails_at_is_refused(text: str) -> None:
    assert "is not understood by tokenizers" in problem_of(check_tokenizer, text)


@pytest.mark.parametrize("token", [added(2**31 - 1), added(7), added(1, "a"), added(2) + added(3)])
def test_added_tokens_must_get_the_ids_that_they_claim(token: list[dict[str, Any]]) -> None:
    assert "another id than it gets" in problem_of(check_tokenizer, tokenizer(added_tokens=token))


def test_one_that_ends_its_process_ends_that_of_the_check(builder: Any, base: BaseShapes) -> None:
    folder: Path = builder.folder()
    (folder / "tokenizer.json").write_text(tokenizer(ABORTING))
    with Sandbox() as sandbox, pytest.raises(InvalidAdapter, match="checking its files failed"):
        sandbox.inspect(folder, base, 64)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_map", {"AutoTokenizer": "x.Y"}),
        *((key, "/etc/passwd") for key in ("tokenizer_file", "vocab_file", "merges_file", "gguf_file")),
        ("fast_tokenizer_files", ["../other/tokenizer.4.0.json"]),
        ("tokenizer_object", {"a": 1}),
        ("vocab", {"a": 1}),
        ("tokenizer_truncation", {"max_length": 1}),
        ("_spm_precompiled_charsmap", "x"),
        ("self", 1),
    ],
)
def test_no_setting_opens_a_file_or_stands_for_a_part(key: str, value: Any) -> None:
    assert repr(key) in problem_of(check_config, json.dumps({key: value}))
    assert repr(key) in problem_of(check_special_tokens, json.dumps({key: value}))
    check_config(json.dumps({key: None}), "tokenizer_config.json")


@pytest.mark.parametrize("value", [5, None, [], True])
def test_special_tokens_are_texts(value: Any) -> None:
    assert "'eos_token' is none" in problem_of(check_special_tokens, json.dumps({"eos_token": value}))


def test_special_tokens_as_transformers_writes_them() -> None:
    token = {"content": "</s>", **FLAGS}
    given = {"eos_token": token, "bos_token": "<s>", "additional_special_tokens": ["<x>", token]}
    check_special_tokens(json.dumps(given), "special_tokens_map.json")
