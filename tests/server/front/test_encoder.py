"""Tokenizers of strangers: they encode as in the library, and harm nobody where they do not."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from tokenizers import Tokenizer

from lorikeet.v1 import inference_pb2 as pb
from server import tokenizer_process
from server.encoder import Encoder
from server.errors import InvalidRequest, NotReady
from server.strikes import MAX_STRIKES
from tests.adapters.test_tokenizer_check import tokenizer as tokenizer_file
from tests.server.front.house import House, Loop, refused
from tests.server.front.packs import chunks, header, pack, send
from tests.server.front.tiny import make_tokenizer

TOO_LARGE = "it takes more memory than 768 MB"
Encode = Callable[..., list[int]]


def replacing(*contents: str) -> dict[str, Any]:
    """Each puts its content in for a `c`."""
    chain = [{"type": "Replace", "pattern": {"String": "c"}, "content": content} for content in contents]
    return {"type": "Sequence", "normalizers": chain}


# Harmless over texts without a `c`, which it turns into 10^10 of them.
SWELLING = tokenizer_file(normalizer=replacing(*["c" * 10**5] * 2))
# Cubic in the text's length, for as long as nothing is found.
CUBIC = {
    "type": "WordPiece",
    "vocab": {"[UNK]": 0, "b": 1, **{"##" * is_inner + "a": 2 + is_inner for is_inner in (0, 1)}},
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 10**9,
}
SLOW = json.dumps({"version": "1.0", "added_tokens": [], "model": CUBIC})
SLOW_TEXT = "a" * 20_000


@pytest.fixture(scope="module")
def encoders() -> Iterator[list[Encoder]]:
    made: list[Encoder] = []
    yield made
    for encoder in made:
        encoder.close()


@pytest.fixture(scope="module")
def encoding(loop: Loop, encoders: list[Encoder]) -> Callable[[str], Encode]:
    def start(tokenizer: str) -> Encode:
        encoders.append(encoder := Encoder(tokenizer))

        def encode(text: str, tenant: str = "acme", special: bool = True) -> list[int]:
            return loop.run(encoder.encode(tenant, text, special))

        return encode

    return start


@pytest.mark.parametrize("special", [True, False])
def test_as_in_the_library(encoding: Callable[[str], Encode], special: bool) -> None:
    tokenizer = make_tokenizer()
    encode = encoding(tokenizer.to_str())
    for text in ("the cat", "", "hé \u2028\n\U0001f600\0", "a" * 100_000):
        assert encode(text, special=special) == tokenizer.encode(text, add_special_tokens=special).ids


@pytest.mark.parametrize(
    ("tokenizer", "text", "why"),
    [(SWELLING, "c", TOO_LARGE), (SLOW, SLOW_TEXT, r"it takes more than 1.15 s")],
)
def test_bombs_cost_their_own_request_and_count_against_their_tenant(
    encoding: Callable[[str], Encode], tokenizer: str, text: str, why: str
) -> None:
    encode = encoding(tokenizer)
    for _ in range(MAX_STRIKES):
        assert encode("b") == [1]
        with pytest.raises(InvalidRequest, match=f"the adapter's tokenizer fails at it: {why} for this text"):
            encode(text)
    with pytest.raises(InvalidRequest, match=f"for {MAX_STRIKES} texts, and is tried again in"):
        encode("b")
    assert encode("b", tenant="other") == [1]


def test_more_tokens_than_any_context_holds_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_process, "MAX_IDS", 3)
    encode = tokenizer_process.encoding(Tokenizer.from_str(tokenizer_file()))
    assert encode({"text": "aba", "special": True}) == {"ids": [0, 1, 0]}
    assert encode({"text": "abab", "special": True}) == {"error": "it makes more than 3 tokens"}


def test_who_leaves_takes_its_process_along(loop: Loop) -> None:
    encoder = Encoder(tokenizer_file())
    assert loop.run(encoder.encode("acme", "ab", True)) == [0, 1]
    child = encoder._bounded._child
    assert child is not None and psutil.pid_exists(child.pid)
    encoder.leave()
    with pytest.raises(NotReady, match="try again"):
        loop.run(encoder.encode("acme", "ab", True))
    encoder.close()
    assert not psutil.pid_exists(child.pid)


def test_over_the_wire_beside_others(house: House) -> None:
    files = {**pack(), "tokenizer.json": SWELLING.encode()}
    send(house, [header("own", files), *chunks(files, 1 << 16)])

    def ids(text: str, adapter_id: str = "own") -> list[int]:
        return list(house.inference.Tokenize(pb.TokenizeRequest(text=text, adapter_id=adapter_id)).token_ids)

    # The kernel's peak, begun anew: what other tests have left in this process is no part of it.
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()
    refusal = refused(lambda: ids("c"))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["input"])
    assert TOO_LARGE in refusal.message
    assert ids("b") == [1] and ids("a", "")
    assert peak_bytes() - before < 2**28, "the text never swelled here"


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def test_a_template_that_swells_a_conversation_is_told_before_it_is_encoded(house: House) -> None:
    files = {**pack(), "chat_template.jinja": b"{{ 'x' * 10 ** 7 }}"}
    send(house, [header("own", files), *chunks(files)])
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="a")])
    refusal = refused(lambda: house.inference.Tokenize(pb.TokenizeRequest(chat=chat, adapter_id="own")))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["chat"])
    assert "is 10000000 characters by the adapter's template" in refusal.message
