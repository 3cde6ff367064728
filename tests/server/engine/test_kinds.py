"""Adapters of every kind in one batch: each answers as its equations say, whoever its neighbours are."""

from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from adapters.normal import AdapterWeights, EmbeddingChange, HeadChange, LinearChange, Prefix
from server.engine.build import make_engine
from server.engine.config import EngineConfig
from server.model.adapter import AdapterBlob, Allocate
from server.model.blob import make_blob
from server.model.config import FIRST_VIRTUAL, ModelConfig
from server.model.decoder import Decoder
from server.model.loader import load_decoder
from server.model.parts import FUSED
from tests.changes import ADDED, KINDS, NUM_VIRTUAL, apply, greedy_answer, weights_of
from tests.toys import VOCAB, Driven

NUM_TOKENS = 12
SEEDED = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "seed": 1234}
NAMES = {"slots": "adapter_slots"}


class House:
    """One base with an adapter of every kind, named by its kind."""

    def __init__(self, base: Path, quantization: str = "none", device: str = "cpu") -> None:
        self.base = base
        self.quantization = quantization
        self.device = torch.device(device)
        self.config = ModelConfig.from_hf(AutoConfig.from_pretrained(base))
        # Other weights than `weights_of` has, by kind.
        self.weights: dict[str, AdapterWeights] = {}

    @cached_property
    def decoder(self) -> Decoder:
        return self.load(torch.float32)

    def load(self, dtype: torch.dtype) -> Decoder:
        return load_decoder(self.base, self.quantization, dtype, self.device)

    def drive(self, decoder: Decoder | None = None, **options: Any) -> Driven:
        decoder = decoder or self.decoder
        dtype = decoder.embedding.dtype

        def read(kind: str, allocate: Allocate) -> AdapterBlob:
            weights = self.weights.get(kind) or weights_of(kind, self.config)
            return make_blob(weights, self.config, dtype, allocate)

        defaults = {"threads": 1, "cache_tokens": 4096, "debug_checks": True, "adapter_slots": 32}
        config = EngineConfig(base=str(self.base), **{**defaults, **options})
        return Driven(make_engine(config, decoder, self.config.max_context, read)[0])

    def oracle(self, weights: AdapterWeights) -> Any:
        model = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32)
        hold_as_served(model, self.decoder)
        return apply(model, weights)


def hold_as_served(model: Any, decoder: Any) -> None:
    """The model's linears get the weights that the decoder holds."""
    with torch.no_grad():
        for layer, ours in zip(model.model.layers, decoder.layers, strict=True):
            for linear, names in FUSED.items():
                weight = getattr(ours, linear).weight
                rows = weight.weight if hasattr(weight, "weight") else weight.dequantize(torch.float32)
                held = [layer.get_submodule(name) for name in names]
                for module, part in zip(held, rows.split([m.out_features for m in held]), strict=True):
                    module.weight.copy_(part)


def prompt_of(kind: str, length: int = 20) -> list[int]:
    generator = torch.Generator().manual_seed(len(kind) + length)
    return torch.randint(3, VOCAB, (length,), generator=generator).tolist()


def ask(driven: Driven, kind: str, prompt: list[int], virtual: str = "", **options: Any) -> int:
    """With virtual tokens before the prompt where the adapter has them: of a "prompt", or "keys"."""
    virtual = virtual or kind
    if virtual in ("prompt", "keys"):
        options = {**options, "num_virtual": NUM_VIRTUAL, "has_keys": virtual == "keys"}
        prompt = [*(FIRST_VIRTUAL + i for i in range(NUM_VIRTUAL)), *prompt]
    return driven.submit(prompt, kind, max_new_tokens=NUM_TOKENS, **options)


@pytest.fixture(scope="module", params=["none", "nf4", "int8"])
def house(request: Any, bases: dict[str, Path]) -> House:
    return House(bases["llama"], request.param)


@pytest.fixture(scope="module")
def plain(bases: dict[str, Path]) -> House:
    return House(bases["llama"])


def expected(house: House, kind: str, prompt: list[int]) -> list[int]:
    weights = weights_of(kind, house.config) if kind else AdapterWeights({})
    return greedy_answer(house.oracle(weights), weights, prompt, NUM_TOKENS)[0]


def test_every_kind_answers_as_its_equations_say_alone_and_in_one_batch(house: House) -> None:
    kinds = ["", *KINDS]
    oracle = {kind: expected(house, kind, prompt_of(kind)) for kind in kinds}
    for kind in kinds:
        driven = house.drive()
        assert driven.answers(ask(driven, kind, prompt_of(kind))) == [oracle[kind]], kind
    driven = house.drive()
    answers = driven.answers(*[ask(driven, kind, prompt_of(kind), tenant=kind) for kind in kinds])
    assert dict(zip(kinds, answers, strict=True)) == oracle
    assert driven.failures == {}


def test_every_kind_differs_from_the_base_and_added_tokens_are_said(plain: House) -> None:
    for kind in KINDS:
        prompt = prompt_of(kind)
        assert expected(plain, kind, prompt) != expected(plain, "", prompt), kind
    assert max(expected(plain, "added", prompt_of("added"))) >= VOCAB


def test_in_the_room_of_two_every_kind_answers_as_with_room_for_all(plain: House) -> None:
    """Host memory for one, so that each is read, placed and evicted while others decode."""
    kinds, answers = ["", *KINDS], []
    for options in ({}, {"adapter_slots": 2, "host_cache_bytes": 1, "drain_after": 0.0}):
        driven = plain.drive(**options)
        answers.append(driven.answers(*[ask(driven, kind, prompt_of(kind), tenant=kind) for kind in kinds]))
        assert driven.failures == {}
    assert answers[0] == answers[1]
    assert driven.engine.stats().adapter_evictions >= len(KINDS) - 2


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_biases_and_norms_of_heads_are_there_too(family: str, bases: dict[str, Path]) -> None:
    """Qwen2's linears have biases, which a gain scales too; Qwen3 normalises q and k."""
    house, kinds = House(bases[family]), ["gain", "input-of-fused", "norms", "keys", ""]
    driven = house.drive()
    answers = driven.answers(*[ask(driven, kind, prompt_of(kind)) for kind in kinds])
    assert answers == [expected(house, kind, prompt_of(kind)) for kind in kinds]


@pytest.fixture(scope="module")
def requests() -> list[dict[str, Any]]:
    """Every kind, greedy and seeded, prompts that share their beginnings and differ in length."""
    shared = prompt_of("shared", 24)
    made: list[dict[str, Any]] = []
    for index, kind in enumerate(["", *KINDS]):
        sampling = SEEDED if index % 3 == 2 else {}
        made.append({"kind": kind, "prompt": [*shared, *prompt_of(kind, 1 + 3 * index)], **sampling})
    return made


@pytest.fixture(scope="module")
def alone(plain: House, requests: list[dict[str, Any]]) -> list[list[int]]:
    """Each request by itself in a fresh engine that caches nothing."""
    answers = []
    for request in requests:
        driven = plain.drive(prefix_cache=False)
        answers.append(driven.answers(ask(driven, **request))[0])
    return answers


@settings(deadline=None, max_examples=6)
@given(
    order=st.permutations(range(len(KINDS) + 1)),
    wait=st.integers(0, 2),
    step_tokens=st.sampled_from([7, 33, 512]),
    cache_tokens=st.sampled_from([160, 2048]),
    slots=st.sampled_from([1, 3, 16]),
    prefix_cache=st.booleans(),
    overlap=st.sampled_from(["off", "on"]),
)
def test_alone_batched_chunked_preempted_and_cached_agree(
    plain: House,
    requests: list[dict[str, Any]],
    alone: list[list[int]],
    order: list[int],
    wait: int,
    **options: Any,
) -> None:
    """Every way of scheduling gives every request its tokens; books are checked at each step."""
    driven = plain.drive(**{NAMES.get(name, name): value for name, value in options.items()})
    ids = {}
    for index in order:
        ids[index] = ask(driven, **requests[index])
        for _ in range(wait):
            driven.step()
    driven.drain()
    assert driven.failures == {}
    for index, request_id in ids.items():
        assert [token.token for token in driven.tokens[request_id]] == alone[index], requests[index]["kind"]


@pytest.mark.parametrize("kind", ["prompt", "keys"])
def test_virtual_tokens_are_cached_for_one_tenant_and_never_counted(plain: House, kind: str) -> None:
    driven, prompt = plain.drive(), prompt_of("cached", 40)
    cached = []
    for tenant in ("acme", "acme", "rival"):
        asked = ask(driven, kind, prompt, tenant=tenant)
        assert driven.answers(asked) == [expected(plain, kind, prompt)]
        started = driven.tokens[asked][0].started
        assert started is not None
        cached.append(started.cached_tokens)
    # Two blocks of 16 are whole among the 44 tokens before the last one.
    assert cached == [0, 32 - NUM_VIRTUAL, 0]


@pytest.mark.parametrize("kind", ["prompt", "keys", "added"])
def test_a_resubmission_goes_on_where_the_answer_stopped(plain: House, kind: str) -> None:
    prompt, whole = prompt_of(kind), expected(plain, kind, prompt_of(kind))
    driven = plain.drive()
    again = ask(driven, kind, [*prompt, *whole[:5]], answered=5)
    assert driven.answers(again) == [whole[5:]]


def test_penalties_look_at_what_was_said_and_at_no_virtual_token(plain: House) -> None:
    driven = plain.drive()
    sampling = {"repetition_penalty": 1.3, "frequency_penalty": 0.2, "min_new_tokens": 3}
    asked = [ask(driven, kind, prompt_of(kind), stop_token_ids=(7,), **sampling) for kind in KINDS]
    answers = driven.answers(*asked)
    assert driven.failures == {}
    assert all(0 <= token < VOCAB + ADDED for answer in answers for token in answer)


def broken(config: ModelConfig, part: str) -> AdapterWeights:
    """NaN wherever an adapter of the part has numbers."""
    shape = (config.vocab_size, config.hidden_size)
    nan = torch.full((config.hidden_size,), torch.nan)
    match part:
        case "vectors":
            names = [name for name in config.linear_shapes() if name.endswith("o_proj")]
            return AdapterWeights({name: LinearChange(gain=nan, bias=nan) for name in names})
        case "embedding":
            return AdapterWeights({}, EmbeddingChange(full=nan.expand(shape)))
        case "head":
            return AdapterWeights({}, head=HeadChange(full=nan.expand(shape)))
        case "norms":
            return AdapterWeights({}, norms={"model.layers.0.input_layernorm": nan})
    keys = (config.num_layers, 2, NUM_VIRTUAL, config.num_kv_heads, config.head_dim)
    return AdapterWeights({}, prefix=Prefix(keys_values=torch.full(keys, torch.nan)))


@pytest.mark.parametrize("part", ["vectors", "embedding", "head", "norms", "keys"])
def test_an_adapter_of_nan_fails_alone(bases: dict[str, Path], part: str) -> None:
    house, fine = House(bases["llama"]), ["", "gain", "added", "norms", "input-of-fused"]
    house.weights["nan"] = broken(house.config, part)
    driven = house.drive()
    bad = ask(driven, "nan", prompt_of("bad"), virtual="keys" if part == "keys" else "")
    answers = driven.answers(*[ask(driven, kind, prompt_of(kind)) for kind in fine])
    assert answers == [expected(house, kind, prompt_of(kind)) for kind in fine]
    assert driven.failures[bad].reason == "numeric"


@pytest.mark.parametrize("before", [kind for kind in KINDS if kind != "gain-of-some"])
def test_what_was_evicted_leaves_nothing_behind(plain: House, before: str) -> None:
    """One slot: after an adapter with other, and more, targets the log probabilities are the same bits."""
    prompt = prompt_of("residue")

    def said(driven: Driven) -> list[Any]:
        asked = ask(driven, "gain-of-some", prompt, logprobs=VOCAB)
        driven.drain()
        return [(token.token, token.logprobs) for token in driven.tokens[asked]]

    fresh, used = plain.drive(), plain.drive(adapter_slots=1)
    assert used.answers(ask(used, before, prompt))[0]
    assert said(used) == said(fresh)
    assert used.engine.stats().adapter_evictions == 1
