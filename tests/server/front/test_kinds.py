"""What an adapter brings beside its linears, as the front sees it: words, virtual tokens, its own tokens."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from safetensors.numpy import save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from adapters.files import describe
from adapters.manifest import Manifest
from adapters.store import AdapterVersion
from lorikeet.v1 import inference_pb2 as pb
from server.engine.messages import Submit
from server.errors import AdapterUnusable
from server.model.config import FIRST_VIRTUAL
from server.text import Text
from server.texts import Texts
from tests.adapters.test_tokenizer_check import ABORTING
from tests.adapters.test_tokenizer_check import tokenizer as tokenizer_file
from tests.server.front.house import House, batches, refused
from tests.server.front.packs import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    chunks,
    config,
    header,
    nothing_stored,
    pack,
    send,
    tensors,
)
from tests.server.front.tiny import CONTEXT, VOCAB

Code = grpc.StatusCode
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
PROMPT_TUNING = {
    "peft_type": "PROMPT_TUNING",
    "task_type": "CAUSAL_LM",
    "num_virtual_tokens": 5,
    "token_dim": 16,
    "num_transformer_submodules": 1,
    "num_attention_heads": 2,
    "num_layers": 2,
}


def own_tokenizer(folder: Path) -> dict[str, bytes]:
    """Other words, other ids, an end-of-sequence token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<a>", "<b>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["zebra zigzag zoo"] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", model_max_length=64)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


def upload(house: House, files: dict[str, bytes], name: str = "own") -> Any:
    return send(house, [header(name, files), *chunks(files, 1 << 16)])


def tokenize(house: House, adapter_id: str = "", **given: Any) -> list[int]:
    return list(house.inference.Tokenize(pb.TokenizeRequest(adapter_id=adapter_id, **given)).token_ids)


def test_an_adapters_own_tokenizer_reads_and_writes_for_it_alone(house: House, tmp_path: Path) -> None:
    files = {**pack(), **own_tokenizer(tmp_path)}
    upload(house, files)
    own = Text(str(tmp_path))
    assert tokenize(house, "own", text="zebra") == own.encode("zebra") != tokenize(house, text="zebra")
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="zoo")])
    assert tokenize(house, "own", chat=chat) == own.backend.encode("<user>zoo").ids

    house.link.script = lambda request: batches(request, own.encode("zigzag"), finish="stop")
    answer = list(house.inference.Generate(pb.GenerateRequest(prompt="zoo", adapter_id="own")))
    asked = house.link.submitted[-1]
    assert asked.tokens == own.encode("zoo")
    # The one of its own and those of the base's configuration.
    assert asked.sampling.stop_token_ids == (1, 2, 5)
    assert "zigzag".startswith("".join(message.text for message in answer))
    assert own.backend.decode(own.encode("zigzag")[:-1]) == "".join(message.text for message in answer)


def test_a_chat_template_may_come_alone(house: House, text: Text) -> None:
    upload(house, {**pack(), "chat_template.jinja": TEMPLATE.encode()})
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hello")])
    expected = text.backend.encode("<user>hello", add_special_tokens=False).ids
    assert tokenize(house, "own", chat=chat) == expected != tokenize(house, chat=chat)


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ range(10 ** 9) }}", "{{ 'a' + 1 }}", "{{ m.x.y }}"])
def test_a_chat_template_that_fails_is_its_adapters_fault(house: House, template: str) -> None:
    upload(house, {**pack(), "chat_template.jinja": template.encode()})
    refusal = refused(
        lambda: tokenize(house, "own", chat=pb.Chat(messages=[{"role": "user", "content": "x"}]))
    )
    assert (refusal.code, refusal.fields) == (Code.INVALID_ARGUMENT, ["chat"])
    assert "the adapter's chat template" in refusal.message


UNHEARD = b'{"version": "1.0", "model": {"type": "Unheard"}}'


@pytest.mark.parametrize("content", [UNHEARD, tokenizer_file(ABORTING).encode()], ids=["unheard", "aborting"])
def test_a_tokenizer_that_cannot_be_used_is_refused_with_the_upload(house: House, content: bytes) -> None:
    refusal = refused(lambda: upload(house, {**pack(), "tokenizer.json": content}))
    assert refusal.code is Code.INVALID_ARGUMENT
    assert nothing_stored(house)


@pytest.mark.parametrize("setting", [{"eos_token": 5}, {"added_tokens_decoder": []}, {"chat_template": [{}]}])
def test_settings_of_a_tokenizer_that_cannot_be_used_are_refused(
    house: House, tmp_path: Path, setting: dict[str, Any]
) -> None:
    files = {**pack(), **own_tokenizer(tmp_path), "tokenizer_config.json": json.dumps(setting).encode()}
    del files["chat_template.jinja"]
    refusal = refused(lambda: upload(house, files))
    assert refusal.code is Code.INVALID_ARGUMENT
    assert "its tokenizer cannot be used" in refusal.message
    assert nothing_stored(house)


def test_a_text_at_which_an_adapters_tokenizer_fails(house: House) -> None:
    endless = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    upload(house, {**pack(), "tokenizer.json": tokenizer_file(pre_tokenizer=endless).encode()})
    refusal = refused(lambda: tokenize(house, "own", text="a" * 30 + "b"))
    assert (refusal.code, refusal.fields) == (Code.INVALID_ARGUMENT, ["input"])
    assert tokenize(house, "own", text="ab") == [0, 1]


def test_an_answer_at_which_an_adapters_tokenizer_fails(house: House) -> None:
    # Panics where there is nothing but what it takes away.
    greedy = {"type": "Strip", "content": "b", "start": 0, "stop": 9}
    upload(house, {**pack(), "tokenizer.json": tokenizer_file(decoder=greedy).encode()})
    house.link.script = lambda request: batches(request, [1, 1], finish="length")
    asked = pb.GenerateRequest(prompt="aa", adapter_id="own")
    refusal = refused(lambda: list(house.inference.Generate(asked)))
    assert (refusal.code, refusal.fields) == (Code.INVALID_ARGUMENT, ["adapter_id"])
    house.link.script = lambda request: batches(request, [0, 0], finish="length")
    assert "".join(message.text for message in house.inference.Generate(asked)) == "aa"


def test_a_tokenizer_that_changed_on_disk_is_not_used(house: House, tmp_path: Path) -> None:
    version = upload(house, {**pack(), **own_tokenizer(tmp_path)})
    held = house.front._directory.store.folder(version.digest) / "tokenizer.json"
    held.write_bytes(held.read_bytes() + b" ")
    refusal = refused(lambda: tokenize(house, "own", text="zebra"))
    assert refusal.code is Code.FAILED_PRECONDITION
    assert "changed on disk" in refusal.message


def test_tokenizing_for_an_adapter_that_is_not_there(house: House) -> None:
    assert refused(lambda: tokenize(house, "none", text="x")).code is Code.NOT_FOUND
    assert refused(lambda: tokenize(house, "../x", text="x")).fields == ["adapter_id"]


def test_virtual_tokens_stand_before_the_prompt_and_nobody_is_told(house: House, text: Text) -> None:
    prompt = np.ones((5, 16), np.float32)
    files = {
        CONFIG_NAME: json.dumps(PROMPT_TUNING).encode(),
        WEIGHTS_NAME: save({"prompt_embeddings": prompt}),
    }
    upload(house, files)
    house.link.script = lambda request: batches(request, [7])
    ids = pb.TokenIds(ids=[9] * 20)
    (answer,) = house.inference.Generate(pb.GenerateRequest(token_ids=ids, adapter_id="own"))
    asked = house.link.submitted[-1]
    assert asked.tokens == [*range(FIRST_VIRTUAL, FIRST_VIRTUAL + 5), *[9] * 20]
    assert (asked.num_virtual, asked.has_keys) == (5, False)
    assert answer.started.prompt_tokens == answer.finished.usage.prompt_tokens == 20
    # The context holds them too: what is left of it is that much shorter.
    assert asked.sampling.max_new_tokens == CONTEXT - 25
    long = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[9] * (CONTEXT - 5)), adapter_id="own")
    refusal = refused(lambda: house.inference.Generate(long))
    assert (refusal.code, refusal.fields) == (Code.INVALID_ARGUMENT, ["token_ids"])


def test_tokens_beyond_the_bases_are_an_adapters_alone(house: House) -> None:
    rows = {
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": np.ones(
            (2, 16), np.float32
        )
    }
    added = config(trainable_token_indices={"embed_tokens": [VOCAB, VOCAB + 1]})
    upload(house, {CONFIG_NAME: added, WEIGHTS_NAME: save({**tensors(), **rows})})
    house.link.script = lambda request: batches(request, [7])

    def ask(token_id: int, adapter_id: str) -> Submit:
        request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[3, token_id]), adapter_id=adapter_id)
        list(house.inference.Generate(request))
        return house.link.submitted[-1]

    assert ask(VOCAB + 1, "own").tokens == [3, VOCAB + 1]
    for token_id, adapter_id in ((VOCAB + 2, "own"), (VOCAB, "")):
        refusal = refused(lambda i=token_id, a=adapter_id: ask(i, a))
        assert (refusal.code, refusal.fields) == (Code.INVALID_ARGUMENT, ["token_ids"])


def test_what_the_engine_finds_wrong_refuses_the_upload_with_every_reason(house: House) -> None:
    house.link.problems = ["its gain overflows torch.bfloat16", "its rank is too high"]
    refusal = refused(lambda: upload(house, pack()))
    assert refusal.code is Code.INVALID_ARGUMENT
    assert len(refusal.fields) == 2
    assert nothing_stored(house)


def test_texts_are_bounded_and_read_once(base: Path, tmp_path: Path) -> None:
    own_tokenizer(tmp_path)
    specs = tuple(describe(tmp_path / name) for name in ("tokenizer.json", "tokenizer_config.json"))
    names = tuple(spec.name for spec in specs)
    manifest = Manifest("d", specs, "lora", 2, 1, {}, "", "F32", tokenizer_files=names)
    version = AdapterVersion("acme", "own", 1, "1", 0.0, manifest)

    async def scenario() -> None:
        texts = Texts(str(base), lambda digest: tmp_path, max_texts=1)
        first, again = await asyncio.gather(texts.of(version), texts.of(version))
        assert first is again
        assert await texts.of(None) is texts.base
        other = replace(version, digest="2")
        assert await texts.of(other) is not first
        assert await texts.of(version) is not first, "one is kept"
        (tmp_path / "tokenizer.json").write_text("{}")
        with pytest.raises(AdapterUnusable, match="own@1.*changed on disk"):
            await texts.of(other)

    asyncio.run(scenario())
