"""The engine on its own kernels gives the tokens of the engine on torch's, but for ties in bfloat16."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from loadtests.agreement import compare
from server.engine.messages import Token
from tests.toys import VOCAB, Driven, drive, make_adapter, make_base, store_adapter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# Heads of the kernels' sizes; widths at which K is split, and rows that no block's share divides.
SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
RANKS = (1, 8, 16, 20, 64, 128)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("paged")
    made = {}
    for family in ("llama", "qwen2", "qwen3"):
        base = make_base(folder / family, family, **SHAPE)
        digests = [""]
        for rank in RANKS:
            adapter = make_adapter(base, folder / f"{family}-{rank}", seed=rank, r=rank, lora_alpha=16)
            digests.append(store_adapter(folder / f"{family}-store", base, adapter, f"rank{rank}"))
        made[family] = (base, folder / f"{family}-store", digests)
    return made


def engine(house: Any, family: str, **options: Any) -> Driven:
    base, store, _ = house[family]
    defaults = {"device": "cuda", "dtype": "bfloat16", "quantization": "nf4", "cache_tokens": 65536}
    return drive(base, store, **{**defaults, **options})


def ask(driven: Driven, digests: list[str], count: int, **sampling: Any) -> list[list[Token]]:
    """`count` requests of all adapters in turn, prompts of many lengths."""
    generator = torch.Generator().manual_seed(count)
    asked = []
    for number in range(count):
        prompt = torch.randint(3, VOCAB, (3 + 13 * number % 190,), generator=generator).tolist()
        options = {"max_new_tokens": 24, **sampling}
        asked.append(driven.submit(prompt, digests[number % len(digests)], tenant=str(number), **options))
    driven.drain()
    assert driven.failures == {}
    return [driven.tokens[each] for each in asked]


def said(driven: Driven, digests: list[str], counts: Sequence[int], **sampling: Any) -> list[list[Token]]:
    return [answer for count in counts for answer in ask(driven, digests, count, **sampling)]


def assert_agree(house: Any, family: str, counts: Sequence[int], fast: Driven, **options: Any) -> None:
    """The kernels' answers with torch's under `options`, both held against float32."""
    assert type(fast.engine._runner).__name__ == "PagedRunner"
    digests, plain = house[family][2], {**options, "kernels": "torch", "overlap": "off"}
    ours = said(fast, digests, counts, logprobs=VOCAB)
    theirs = said(engine(house, family, **plain), digests, counts, logprobs=VOCAB)
    exact = said(engine(house, family, **plain, dtype="float32"), digests, counts, logprobs=VOCAB)
    agreement = compare(ours, theirs, exact)
    assert agreement.is_explained, agreement


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_answers_equal_torchs(house: Any, family: str, quantization: str) -> None:
    fast = engine(house, family, quantization=quantization)
    assert_agree(house, family, (1, 7, 20, 64), fast, quantization=quantization)


@pytest.mark.parametrize("options", [{"step_tokens": 64}, {"cache_tokens": 2048}, {"adapter_slots": 2}])
def test_chunks_preemption_and_eviction_change_nothing(house: Any, options: dict[str, Any]) -> None:
    assert_agree(house, "llama", (24, 30), engine(house, "llama", **options))


def test_greedy_answers_are_the_likeliest_tokens(house: Any) -> None:
    """The kernel that finds them sees what is drawn from otherwise."""
    driven, digests = engine(house, "llama", prefix_cache=False), house["llama"][2]
    said(driven, digests, (20,))
    drawn, greedy = said(driven, digests, (20,), logprobs=1), said(driven, digests, (20,))
    assert [[t.token for t in answer] for answer in greedy] == [[t.token for t in answer] for answer in drawn]


def test_the_same_run_gives_the_same_bits(house: Any) -> None:
    """Log probabilities and all, draws and penalties in the batch, where no load decides who is in a step."""

    def run() -> list[list[Token]]:
        sampling = {"temperature": 0.8, "top_p": 0.9, "seed": 7, "logprobs": 3, "presence_penalty": 0.1}
        driven = engine(house, "llama", prefix_cache=False)
        ask(driven, house["llama"][2], len(RANKS) + 1)
        return ask(driven, house["llama"][2], 30, **sampling)

    plain = [[(t.token, t.logprobs) for t in answer] for answer in run()]
    assert plain == [[(t.token, t.logprobs) for t in answer] for answer in run()]


def test_more_sequences_than_a_graph_holds(house: Any) -> None:
    assert_agree(house, "llama", (100,), engine(house, "llama", max_running=100), max_running=100)


def test_long_contexts_are_shared_by_blocks(house: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(3, VOCAB, (12, 1900), generator=generator).tolist()
    answers = []
    for options in ({}, {"kernels": "torch"}, {"kernels": "torch", "dtype": "float32"}):
        driven, digests = engine(house, "llama", **options), house["llama"][2]
        asked = [driven.submit(prompt, digests[2], max_new_tokens=20, logprobs=VOCAB) for prompt in prompts]
        driven.drain()
        answers.append([driven.tokens[each] for each in asked])
    agreement = compare(*answers)
    assert agreement.is_explained, agreement


def test_the_workspace_that_was_planned_is_enough(house: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The KV cache takes the rest of the memory, and the largest steps still run."""
    caplog.set_level("INFO")
    driven = engine(house, "llama", cache_tokens=0, step_tokens=8192)
    assert "KV cache" in caplog.text
    ask(driven, house["llama"][2], 64)
