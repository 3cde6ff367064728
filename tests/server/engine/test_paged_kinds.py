"""Kinds on the engine's own kernels: torch's answers, and graphs of their own for steps with vectors."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from loadtests.agreement import compare
from server.engine.messages import Token
from tests.changes import KINDS
from tests.server.engine.test_kinds import House, ask, prompt_of
from tests.toys import VOCAB, Driven, make_base

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
ROOM = {"cache_tokens": 65536, "adapter_memory": 1 << 28}


@pytest.fixture(scope="module", params=["none", "nf4", "int8"])
def house(request: Any, tmp_path_factory: pytest.TempPathFactory) -> House:
    """Qwen3, so norms of heads are there too."""
    return House(
        make_base(tmp_path_factory.mktemp("paged") / "qwen3", "qwen3", **SHAPE), request.param, "cuda"
    )


def fast(house: House, **options: Any) -> Driven:
    driven = house.drive(house.load(torch.bfloat16), device="cuda", **{**ROOM, **options})
    assert type(driven.engine._runner).__name__ == "PagedRunner"
    return driven


def slow(house: House, dtype: torch.dtype, **options: Any) -> Driven:
    plain = {**ROOM, "kernels": "torch", "overlap": "off", **options}
    return house.drive(house.load(dtype), device="cuda", **plain)


def said(driven: Driven, kinds: list[str], **options: Any) -> list[list[Token]]:
    asked = [ask(driven, kind, prompt_of(kind), tenant=kind, **options) for kind in kinds]
    driven.drain()
    assert driven.failures == {}
    return [driven.tokens[each] for each in asked]


@pytest.mark.parametrize("options", [{}, {"step_tokens": 32}, {"cache_tokens": 1024}, {"adapter_slots": 3}])
def test_one_batch_of_all_kinds_answers_as_torch_does(house: House, options: dict[str, Any]) -> None:
    """Alone in its step a kind may run as a graph; all together they do not."""
    kinds = ["", *KINDS]
    ours = said(fast(house, **options), kinds, logprobs=VOCAB)
    theirs = said(slow(house, torch.bfloat16, **options), kinds, logprobs=VOCAB)
    exact = said(slow(house, torch.float32, **options), kinds, logprobs=VOCAB)
    agreement = compare(ours, theirs, exact)
    assert agreement.is_explained, agreement


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_alone_answers_as_torch_does(house: House, kind: str) -> None:
    ours = said(fast(house), [kind], logprobs=VOCAB)
    theirs = said(slow(house, torch.bfloat16), [kind], logprobs=VOCAB)
    exact = said(slow(house, torch.float32), [kind], logprobs=VOCAB)
    agreement = compare(ours, theirs, exact)
    assert agreement.is_explained, agreement


def graphs_of(driven: Driven) -> set[Any]:
    return decodes_of(driven.engine._runner.graphs._graphs)  # type: ignore[attr-defined]


def decodes_of(layouts: Iterable[Any]) -> set[Any]:
    """Without those of steps with chunks, which are made as they are needed."""
    return {layout for layout in layouts if not layout.total_context}


def test_plain_low_rank_steps_run_the_graphs_they_always_ran(house: House) -> None:
    """Vectors have graphs of their own, made when they are first needed; tables and ready keys have none."""
    driven = fast(house)
    at_start = graphs_of(driven)
    assert not any(layout.adjusts for layout in at_start)
    before = said(driven, ["", "pair"], logprobs=3)
    assert graphs_of(driven) == at_start
    said(driven, ["keys", "prompt", "added", "norms"])
    assert graphs_of(driven) == at_start
    said(driven, ["gain", "bias", "pair"])
    new = graphs_of(driven) - at_start
    assert new and all(layout.adjusts for layout in new)
    replayed: list[Any] = []
    graphs = driven.engine._runner.graphs  # type: ignore[attr-defined]
    replay = graphs.replay
    graphs.replay = lambda layout: replayed.append(layout) or replay(layout)
    after = said(driven, ["", "pair"], logprobs=3)
    assert decodes_of(replayed) and decodes_of(replayed) <= at_start
    assert [[t.token for t in answer] for answer in after] == [[t.token for t in answer] for answer in before]


def test_a_graph_made_between_steps_disturbs_no_answer_under_way(house: House) -> None:
    """Tokens that only the device knows are looked up after it as before."""
    expected = said(fast(house), ["pair"])
    driven = fast(house)
    first = ask(driven, "pair", prompt_of("pair"), tenant="pair")
    while len(driven.tokens[first]) < 4:
        driven.step()
    ask(driven, "gain", prompt_of("gain"), tenant="gain")
    driven.drain()
    assert [t.token for t in driven.tokens[first]] == [t.token for t in expected[0]]


@pytest.mark.parametrize("before", ["gain", "input-of-all", "wider", "norms"])
def test_what_was_evicted_leaves_nothing_behind(house: House, before: str) -> None:
    """One slot: after an adapter with more targets the log probabilities are the same bits."""

    def bits(driven: Driven) -> list[Any]:
        return [(t.token, t.logprobs) for t in said(driven, ["gain-of-some"], logprobs=VOCAB)[0]]

    used = fast(house, adapter_slots=1)
    said(used, [before])
    assert bits(used) == bits(fast(house))


def test_bases_need_no_vectors(house: House) -> None:
    """A step of the base alone, after adapters with vectors, is the base's."""
    driven = fast(house)
    said(driven, ["gain"])
    assert [t.token for t in said(driven, [""])[0]] == [t.token for t in said(fast(house), [""])[0]]
