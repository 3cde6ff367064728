"""The same request gives the same tokens, whatever else happens to it."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toys import VOCAB, Driven, drive, reference_answer

NUM_TOKENS = 12
SEEDED = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.01, "seed": 1234}


def prompt_of(seed: int, length: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (length,), generator=generator).tolist()


@pytest.fixture(scope="module")
def requests(zoo: Any) -> list[dict[str, Any]]:
    """Base and every adapter, greedy and seeded, some sharing a prompt's beginning."""
    shared = prompt_of(99, 40)
    made = []
    for index, digest in enumerate(zoo.digests.values()):
        prompt = [*shared, *prompt_of(index, 3 + 5 * index)]
        made.append({"prompt": prompt, "adapter": digest})
        made.append({"prompt": prompt, "adapter": digest, "tenant": "other", **SEEDED})
    return made


@pytest.fixture(scope="module")
def alone(zoo: Any, requests: list[dict[str, Any]]) -> list[list[int]]:
    """Each request by itself in a fresh engine that caches nothing."""
    driven = drive(zoo.base, zoo.store, prefix_cache=False)
    return [driven.answers(driven.submit(**request))[0] for request in requests]


@pytest.mark.parametrize(
    "adapter", ["", "rank4", "rank8-rs", "rank16-patterns", "rank64-regex", "layer1-only"]
)
def test_greedy_tokens_equal_transformers_and_peft(zoo: Any, adapter: str) -> None:
    driven = drive(zoo.base, zoo.store)
    prompt = prompt_of(5, 33)
    (answer,) = driven.answers(driven.submit(prompt, zoo.digests[adapter], max_new_tokens=24))
    assert answer == reference_answer(zoo.oracle(adapter), prompt, 24, eos_token_id=None)


@pytest.mark.parametrize("overlap", ["off", "on"])
def test_repetition_penalty_equals_transformers(zoo: Any, overlap: str) -> None:
    driven, prompt = drive(zoo.base, zoo.store, overlap=overlap), prompt_of(6, 20)
    (answer,) = driven.answers(driven.submit(prompt, max_new_tokens=20, repetition_penalty=1.7))
    expected = reference_answer(zoo.oracle(""), prompt, 20, eos_token_id=None, repetition_penalty=1.7)
    plain = reference_answer(zoo.oracle(""), prompt, 20, eos_token_id=None)
    assert answer == expected != plain


@settings(deadline=None, max_examples=40)
@given(
    order=st.permutations(range(12)),
    arrivals=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    step_tokens=st.sampled_from([7, 16, 64, 512]),
    max_running=st.sampled_from([1, 3, 12]),
    cache_tokens=st.sampled_from([128, 256, 2048]),
    slots=st.sampled_from([1, 2, 5]),
    prefix_cache=st.booleans(),
    aborted=st.sets(st.integers(0, 11), max_size=3),
    overlap=st.sampled_from(["off", "on"]),
)
def test_alone_batched_chunked_preempted_and_cached_agree(
    zoo: Any,
    requests: list[dict[str, Any]],
    alone: list[list[int]],
    order: list[int],
    arrivals: list[int],
    step_tokens: int,
    max_running: int,
    cache_tokens: int,
    slots: int,
    prefix_cache: bool,
    aborted: set[int],
    overlap: str,
) -> None:
    """Every way of scheduling gives every request its tokens; books are checked at each step."""
    driven = drive(
        zoo.base,
        zoo.store,
        step_tokens=step_tokens,
        max_running=max_running,
        cache_tokens=cache_tokens,
        adapter_slots=slots,
        prefix_cache=prefix_cache,
        overlap=overlap,
    )
    ids = {}
    for index, wait in zip(order, arrivals, strict=True):
        ids[index] = driven.submit(**requests[index])
        for _ in range(wait):
            driven.step()
    for index in aborted:
        driven.abort(ids[index])
    driven.drain()
    assert driven.failures == {}
    for index, request_id in ids.items():
        answer = [token.token for token in driven.tokens[request_id]]
        expected = alone[index]
        assert answer == (expected[: len(answer)] if index in aborted else expected), index
    stats = driven.engine.stats()
    assert (stats.running, stats.waiting, stats.blocks_used, stats.active) == (0, 0, 0, 0)


def test_preemption_and_prefix_hits_really_happen(zoo: Any, requests: list[dict[str, Any]]) -> None:
    driven = drive(zoo.base, zoo.store, cache_tokens=128, max_running=12, step_tokens=64)
    for request in requests:
        driven.submit(**request)
    driven.drain()
    stats = driven.engine.stats()
    assert stats.preemptions > 0
    assert stats.adapter_loads == 5
    roomy = drive(zoo.base, zoo.store, cache_tokens=2048, step_tokens=64)
    for request in requests * 2:
        roomy.submit(**request)
    roomy.drain()
    assert roomy.engine.stats().prefix_hit_tokens > 0


@pytest.mark.parametrize("cut", [1, 5, NUM_TOKENS - 1])
def test_a_resubmission_goes_on_where_the_answer_stopped(
    zoo: Any, requests: list[dict[str, Any]], alone: list[list[int]], cut: int
) -> None:
    """As after a lost engine: tokens so far come back as part of the prompt."""
    driven = drive(zoo.base, zoo.store)
    for request, expected in zip(requests, alone, strict=True):
        so_far = [*request["prompt"], *expected[:cut]]
        again = driven.submit(**{**request, "prompt": so_far, "answered": cut})
        assert driven.answers(again)[0] == expected[cut:]


@pytest.fixture
def driven(zoo: Any) -> Iterator[Driven]:
    yield drive(zoo.base, zoo.store)


def test_a_second_ask_comes_from_the_prefix_cache_only_for_the_same_tenant_and_adapter(
    zoo: Any, driven: Driven
) -> None:
    prompt, adapter = prompt_of(1, 50), zoo.digests["rank4"]
    first = driven.submit(prompt, adapter, tenant="acme")
    (answer,) = driven.answers(first)

    def cached(**options: Any) -> int:
        again = driven.submit(prompt, **options)
        driven.drain()
        started = driven.tokens[again][0].started
        assert started is not None
        if options["adapter"] == adapter:
            assert [token.token for token in driven.tokens[again]] == answer
        return started.cached_tokens

    assert cached(adapter=adapter, tenant="acme") == 48
    assert cached(adapter=adapter, tenant="rival") == 0
    assert cached(adapter=zoo.digests["rank8-rs"], tenant="acme") == 0
    assert cached(adapter="", tenant="acme") == 0


def test_neighbours_of_an_aborted_sequence_notice_nothing(zoo: Any, driven: Driven) -> None:
    prompt = prompt_of(2, 30)
    (expected,) = driven.answers(driven.submit(prompt))
    kept, gone = driven.submit(prompt, tenant="a"), driven.submit(prompt, tenant="b", max_new_tokens=100)
    for _ in range(4):
        driven.step()
    driven.abort(gone)
    driven.step()
    assert driven.engine.stats().running == 1
    assert driven.answers(kept) == [expected]
