"""Text: what is encoded, and that pieces of text add up to the whole, cut at the first stop string."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from server.base import UnreadableBase
from server.detokenizer import MAX_PENDING, Detokenizer
from server.requests import Turn
from server.text import NoChatTemplate, Text
from tests.server.front.tiny import make_base, make_tokenizer

TOKENIZER = make_tokenizer()
SPECIAL = frozenset([0, 1])
IDS = st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=MAX_PENDING - 1)
STOPS = st.lists(st.text("ab th\ufffd", min_size=1, max_size=4), max_size=4)


def bytefallback_tokenizer() -> Tokenizer:
    """As Llama 2 and Mistral: spaces as U+2581, bytes as tokens, the first space dropped."""
    words = ["<unk>", "\u2581", "a", "b", "th", "\u2581th", "\u2581a", *(f"<0x{i:02X}>" for i in range(256))]
    vocab = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    parts = [
        decoders.Replace("\u2581", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    tokenizer.decoder = decoders.Sequence(parts)
    return tokenizer


FALLBACK = bytefallback_tokenizer()
FALLBACK_AB = [FALLBACK.token_to_id("a"), FALLBACK.token_to_id("b")]
# Whole characters only: a broken one makes this decoder read all the bytes before it anew.
FALLBACK_IDS = st.lists(
    st.one_of(
        st.integers(1, 6).map(lambda token_id: [token_id]),
        st.characters(codec="utf-8").map(lambda char: [7 + byte for byte in char.encode()]),
    ),
    max_size=MAX_PENDING // 4 - 1,
).map(lambda lists: [token_id for each in lists for token_id in each])


def cut(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The text before the stop string that is complete first, the longest of those."""
    found = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not found:
        return text, None
    end, _, stop = min(found)
    return text[: end - len(stop)], stop


def pieces(ids: list[int], sizes: list[int]) -> list[list[int]]:
    out, at = [], 0
    for size in [*sizes, len(ids)]:
        out.append(ids[at : at + size])
        at += size
    return out


@pytest.mark.parametrize("tokenizer", [TOKENIZER, FALLBACK], ids=["bytes", "fallback"])
@settings(max_examples=300, deadline=None)
@given(data=st.data(), stops=STOPS, sizes=st.lists(st.integers(0, 5), max_size=30))
def test_pieces_add_up(tokenizer: Tokenizer, data: st.DataObject, stops: list[str], sizes: list[int]) -> None:
    ids = data.draw(IDS if tokenizer is TOKENIZER else FALLBACK_IDS)
    special = SPECIAL if tokenizer is TOKENIZER else frozenset()
    detokenizer = Detokenizer(tokenizer, special, stops)
    given_out = [detokenizer.push(piece) for piece in pieces(ids, sizes)] + [detokenizer.finish()]
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    text, stop = cut(whole, stops)
    assert "".join(given_out) == text
    assert detokenizer.stopped == stop
    if stop is None:
        assert detokenizer.num_tokens == len(ids)


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, FALLBACK.get_vocab_size() - 1), max_size=40), stops=STOPS)
def test_broken_characters_break_nothing_else(ids: list[int], stops: list[str]) -> None:
    detokenizer = Detokenizer(FALLBACK, frozenset(), stops)
    text = detokenizer.push([*ids, *FALLBACK_AB]) + detokenizer.finish()
    assert detokenizer.stopped is not None or text.endswith("ab")


@settings(max_examples=200, deadline=None)
@given(ids=IDS, stops=STOPS)
def test_tokens_end_with_the_one_that_completed_the_stop(ids: list[int], stops: list[str]) -> None:
    detokenizer = Detokenizer(TOKENIZER, SPECIAL, stops)
    detokenizer.push(ids)
    if detokenizer.stopped is None:
        return
    used = ids[: detokenizer.num_tokens]
    again = Detokenizer(TOKENIZER, SPECIAL, stops)
    again.push(used[:-1])
    assert again.stopped is None
    again.push(used[-1:])
    assert again.stopped == detokenizer.stopped


@settings(max_examples=100, deadline=None)
@given(before=st.text("ab thé", min_size=1), after=st.text("ab thé", min_size=1))
def test_text_that_continues_a_prompt(before: str, after: str) -> None:
    prompt, answer = (TOKENIZER.encode(part, add_special_tokens=False).ids for part in (before, after))
    detokenizer = Detokenizer(TOKENIZER, SPECIAL, (), prompt[-6:])
    assert detokenizer.push(answer) + detokenizer.finish() == after


def test_a_space_after_the_prompt_is_kept() -> None:
    a, space_th = FALLBACK.token_to_id("a"), FALLBACK.token_to_id("\u2581th")
    assert Detokenizer(FALLBACK, frozenset(), (), [a]).push([space_th]) == " th"
    assert Detokenizer(FALLBACK, frozenset(), ()).push([space_th]) == "th"


def test_noise_is_not_held_for_ever() -> None:
    noise = TOKENIZER.encode("日", add_special_tokens=False).ids[:1]
    detokenizer = Detokenizer(TOKENIZER, SPECIAL)
    text = detokenizer.push(noise * 10 * MAX_PENDING)
    assert text == "\ufffd" * 10 * MAX_PENDING
    assert detokenizer.push(TOKENIZER.encode("the cat", add_special_tokens=False).ids) == "the cat"


def test_text_is_given_out_as_soon_as_it_is_certain() -> None:
    detokenizer = Detokenizer(TOKENIZER, SPECIAL, ["sat!"])
    ids = TOKENIZER.encode("the cat sat on", add_special_tokens=False).ids
    shown = [detokenizer.push([token_id]) for token_id in ids]
    assert "".join(shown) == "the cat sat on"


def test_the_tokenizer_is_the_one_transformers_would_take(base: Path, text: Text) -> None:
    from transformers import AutoTokenizer

    auto = AutoTokenizer.from_pretrained(base)
    for sample in ("hello world", "  日本 🙂\n", "<s>the</s> cat", ""):
        assert text.encode(sample) == auto.encode(sample)
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    expected = auto.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    rendered = text.render_chat([Turn("user", "hi"), Turn("assistant", "ho")])
    assert text.encode(rendered, special=False) == expected
    assert text.eos_token_ids == {auto.eos_token_id}


def test_text_of_single_tokens(text: Text) -> None:
    first = text.backend.encode("日", add_special_tokens=False).ids[0]
    assert text.token_text(first) == "\ufffd"
    assert text.token_text(text.backend.token_to_id("Ġthe")) == " the"
    assert text.token_text(1) == "</s>"


def test_no_chat_template(tmp_path: Path) -> None:
    with pytest.raises(NoChatTemplate):
        Text(str(make_base(tmp_path, template=None))).render_chat([Turn("user", "hi")])


def test_a_base_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UnreadableBase, match="tokenizer.json"):
        Text(str(tmp_path))
