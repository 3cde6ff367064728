"""What may come with an adapter is bounded, text, and never a way to run code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from adapters import BaseShapes, InvalidAdapter, Manifest, inspect

TOKENIZER = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}
STORY: dict[str, Any] = {"format": "lorikeet-training-v1"}
FINGERPRINT = "f" * 64
HASHES = {"tokenizer_sha256": "a" * 64, "chat_template_sha256": "b" * 64}
With = Callable[..., Path]


@pytest.fixture
def served(base: BaseShapes) -> BaseShapes:
    return replace(base, fingerprint=FINGERPRINT, quantization="nf4", **HASHES)


@pytest.fixture
def adapter_with(builder: Any) -> With:
    """An adapter's folder with more files in it: a text, or what becomes JSON."""

    def make(**files: Any) -> Path:
        folder: Path = builder.folder()
        for name, content in files.items():
            path = folder / name.replace("__", ".")
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.write_text(content if isinstance(content, str) else json.dumps(content))
        return folder

    return make


def problems_of(folder: Path, base: BaseShapes, **options: Any) -> str:
    with pytest.raises(InvalidAdapter) as caught:
        inspect(folder, base, 64, **options)
    return "\n".join(caught.value.problems)


def test_a_tokenizer_as_transformers_saves_it(adapter_with: With, base: BaseShapes, tmp_path: Path) -> None:
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"a": 0, "<u>": 1}, unk_token="<u>")), unk_token="<u>"
    )
    fast.add_tokens(["<new>"])
    fast.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    fast.save_pretrained(tmp_path / "tokenizer")
    saved = {path.name.replace(".", "__"): path.read_text() for path in (tmp_path / "tokenizer").iterdir()}
    manifest = inspect(adapter_with(README__md="# card", **saved), base, 64)
    assert manifest.tokenizer_files == ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json")
    assert {file.name for file in manifest.files} >= {"README.md", *manifest.tokenizer_files}
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_card_is_part_of_the_identity(adapter_with: With, base: BaseShapes) -> None:
    digests = {inspect(adapter_with(README__md=text), base, 64).digest for text in ("one", "two")}
    assert len(digests | {inspect(adapter_with(), base, 64).digest}) == 3


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"README__md": "x" * (2**20 + 1)}, "README.md is larger"),
        ({"README__md": b"\xff\xfe"}, "README.md is not UTF-8"),
        ({"README__md": b"a\0b"}, "zero byte"),
        ({"chat_template__jinja": "x" * (2**20 + 1)}, "chat_template.jinja is larger"),
        ({"tokenizer__json": "{"}, "tokenizer.json is not valid JSON"),
        ({"tokenizer__json": {"model": {"type": "Pickle"}}}, "no model of a kind"),
        ({"tokenizer__json": {**TOKENIZER, "added_tokens": [{"id": -1, "content": "a"}]}}, "added_tokens"),
        ({"tokenizer__json": '{"a": ' + "[" * 100 + "]" * 100 + "}"}, "nests deeper"),
        ({"tokenizer_config__json": {}}, "without tokenizer.json"),
        (
            {"tokenizer__json": TOKENIZER, "tokenizer_config__json": {"auto_map": {"AutoTokenizer": "x.Y"}}},
            "auto_map",
        ),
        (
            {"tokenizer__json": TOKENIZER, "tokenizer_config__json": {"tokenizer_file": "/etc/passwd"}},
            "tokenizer_file",
        ),
        ({"tokenizer__json": TOKENIZER, "added_tokens__json": {"a": "b"}}, "map each token to its id"),
        ({"tokenizer__json": TOKENIZER, "special_tokens_map__json": []}, "must hold a JSON object"),
        ({"tokenizer__py": "import os"}, "'tokenizer.py' is no part"),
    ],
)
def test_companions_that_are_refused(
    adapter_with: With, base: BaseShapes, files: dict[str, Any], told: str
) -> None:
    assert told in problems_of(adapter_with(**files), base)


def test_a_story_that_is_so_is_kept(adapter_with: With, served: BaseShapes) -> None:
    story = {
        **STORY,
        "base_model": "tiny/llama",
        "base_fingerprint": FINGERPRINT,
        "quantization": "nf4",
        "scales": {"model.layers.0.self_attn.q_proj": 2.0},
        "tokenizer_sha256": "a" * 64,
        "chat_template_sha256": "b" * 64,
        "data_sha256": "1" * 64,
        "eval_sha256": "2" * 64,
        "dtype": "F32",
        "seed": 7,
        "lineage": ["support@3"],
        "metrics": {"eval_loss": 1.25},
        "versions": {"peft": "0.21.2"},
        "created_at": 1.5,
    }
    manifest = inspect(adapter_with(lorikeet_manifest__json=story), served, 64)
    assert (manifest.story, manifest.mismatches) == (story, ())
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": "other"}, "format of lorikeet_manifest.json"),
        ({"mood": "good"}, "'mood' is no field"),
        ({"seed": 1.5}, "seed of"),
        ({"metrics": {"loss": "low"}}, "metrics of"),
        ({"data_sha256": "xyz"}, "data_sha256 of"),
        ({"eval_sha256": 7}, "eval_sha256 of"),
        ({"dtype": None}, "dtype of"),
        ({"dtype": "BF16"}, "the tensors are BF16; they are F32"),
        ({"base_model": "a\nb"}, "base_model of"),
        ({"lineage": "support@3"}, "lineage of"),
        (
            {"scales": {"model.layers.0.self_attn.q_proj": 3.0}},
            "the scale of model.layers.0.self_attn.q_proj",
        ),
        ({"scales": {"model.layers.0.mlp.up_proj": 2.0}}, "does not change"),
    ],
)
def test_stories_that_are_refused(
    adapter_with: With, served: BaseShapes, change: dict[str, Any], told: str
) -> None:
    assert told in problems_of(adapter_with(lorikeet_manifest__json={**STORY, **change}), served)


def test_a_story_of_another_tokenizer(adapter_with: With, base: BaseShapes) -> None:
    text = json.dumps(TOKENIZER)
    right = {**STORY, "tokenizer_sha256": hashlib.sha256(text.encode()).hexdigest()}
    inspect(adapter_with(lorikeet_manifest__json=right, tokenizer__json=text), base, 64)
    # Its own tokenizer answers for it, whatever the base has.
    inspect(
        adapter_with(lorikeet_manifest__json=right, tokenizer__json=text),
        replace(base, tokenizer_sha256="f" * 64),
        64,
    )
    wrong = {**STORY, "tokenizer_sha256": "0" * 64}
    folder = adapter_with(lorikeet_manifest__json=wrong, tokenizer__json=text)
    assert "tokenizer.json is not the file" in problems_of(folder, base)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"base_fingerprint": "0" * 64}, "trained over base 000000000000, served over base ffffffffffff"),
        ({"quantization": "int8"}, "trained over the base in int8, served over it in nf4"),
        ({"tokenizer_sha256": "0" * 64}, "trained with tokenizer 000000000000, served with tokenizer aaaaaa"),
        ({"chat_template_sha256": "0" * 64}, "with chat template 000000000000, served with chat template bb"),
    ],
)
def test_another_base_is_refused_or_kept_in_the_record(
    adapter_with: With, served: BaseShapes, change: dict[str, Any], told: str
) -> None:
    folder = adapter_with(lorikeet_manifest__json={**STORY, **change})
    assert told in problems_of(folder, served)
    manifest = inspect(folder, served, 64, allow_base_mismatch=True)
    assert len(manifest.mismatches) == 1 and told in manifest.mismatches[0]
    assert Manifest.from_json(manifest.to_json()).mismatches == manifest.mismatches
    # A server that does not know its own base cannot tell.
    unknown = dict.fromkeys(("fingerprint", "quantization", *HASHES), "")
    assert inspect(folder, replace(served, **unknown), 64).mismatches == ()
