"""Which tokenizers of strangers the front lets make text: none that makes much of little."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from server.base import UnreadableBase
from server.decoder_bounds import MAX_DECODERS, MAX_TOKEN_CHARS, UnboundedDecoder, require_bounded
from server.text import Text
from tests.adapters.test_tokenizer_check import tokenizer as tokenizer_file
from tests.server.front.test_text import FALLBACK
from tests.server.front.tiny import make_tokenizer

WORDS = ["a", "b", "<0x41>", "##a", "\u2581a", "\u0120", " ", "a" * 40]


def replace(found: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": found, "content": content}


def tokenizer(decoder: dict[str, Any] | None, words: list[str] = WORDS) -> Tokenizer:
    model = {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(words)}, "unk_token": "a"}
    return Tokenizer.from_str(
        json.dumps({"version": "1.0", "added_tokens": [], "model": model, "decoder": decoder})
    )


def chain(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "decoders": list(parts)}


@pytest.mark.parametrize(
    ("decoder", "why"),
    [
        (replace({"Regex": "a"}, "a"), "regular expression"),
        (replace({"String": "a"}, "aa"), "puts more in"),
        (replace({"String": ""}, " "), "puts more in"),
        (chain({"type": "Fuse"}, chain(replace({"String": "a"}, "aa"))), "puts more in"),
        ({"type": "BPEDecoder", "suffix": ""}, "BPEDecoder is not served"),
        ({"type": "CTC", "pad_token": "a", "word_delimiter_token": "", "cleanup": True}, "CTC is not served"),
        (chain(*[{"type": "Fuse"}] * (MAX_DECODERS + 1)), "chains 9 decoders"),
    ],
)
def test_what_could_grow_is_refused(decoder: dict[str, Any], why: str) -> None:
    with pytest.raises(UnboundedDecoder, match=why):
        require_bounded(tokenizer(decoder))


def test_long_tokens_are_refused_as_their_adapter_is_read(tmp_path: Any) -> None:
    require_bounded(tokenizer(None, ["a" * MAX_TOKEN_CHARS]))
    vocab = {"vocab": {"a": 0, "a" * (MAX_TOKEN_CHARS + 1): 1}}
    (tmp_path / "tokenizer.json").write_text(tokenizer_file(vocab))
    with pytest.raises(UnreadableBase, match="a token of 1025 characters"):
        Text(str(tmp_path), is_own=True)


PARTS = st.sampled_from(
    [
        {"type": "ByteFallback"},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        {"type": "Fuse"},
        {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "BPEDecoder", "suffix": "a"},
        {"type": "CTC", "pad_token": "b", "word_delimiter_token": "|", "cleanup": True},
        replace({"String": "\u2581"}, " "),
    ]
)


@given(st.lists(PARTS, max_size=MAX_DECODERS), st.lists(st.integers(0, len(WORDS) - 1), max_size=20))
def test_what_is_taken_grows_by_a_space_for_a_token_and_decoder(
    parts: list[dict[str, Any]], ids: list[int]
) -> None:
    bounded = tokenizer(chain(*parts))
    require_bounded(bounded)
    most = sum(len(WORDS[each]) for each in ids) + len(ids) * len(parts)
    assert len(bounded.decode(ids, skip_special_tokens=False)) <= most


def test_tokenizers_as_models_have_them_are_taken() -> None:
    for each in (make_tokenizer(), FALLBACK):
        require_bounded(each)
