"""The engine on its own kernels gives the tokens of the engine on torch's, but for ties in bfloat16."""

from typing import Any

import pytest
import torch

from server.engine.messages import Token
from server.engine.paged_runner import PagedRunner
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
# Logits of these models reach 16, where bfloat16's steps are 1/16.
NOISE = 0.2


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


def assert_agree(fast: list[list[Token]], slow: list[list[Token]]) -> None:
    """Equal, or first different where the slow one's likeliest tokens are within rounding."""
    agreed = 0
    for ours, theirs in zip(fast, slow, strict=True):
        pairs = zip(ours, theirs, strict=True)
        first = next((i for i, (a, b) in enumerate(pairs) if a.token != b.token), len(ours))
        agreed += first
        if first < len(ours):
            said = theirs[first].logprobs
            assert said is not None
            gap = said.chosen - dict(said.top).get(ours[first].token, -1e9)
            assert gap < NOISE, f"token {first} differs by {gap} in log probability"
    assert agreed > sum(map(len, fast)) / 2, f"only {agreed} tokens before the answers part"


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_tokens_equal_torchs(house: Any, family: str, quantization: str) -> None:
    digests = house[family][2]
    fast = engine(house, family, quantization=quantization)
    assert isinstance(fast.engine._runner, PagedRunner)
    slow = engine(house, family, quantization=quantization, kernels="torch", overlap="off")
    for count in (1, 7, 20, 64):
        assert_agree(ask(fast, digests, count), ask(slow, digests, count, logprobs=5))


def test_log_probabilities_equal_torchs(house: Any) -> None:
    """As long as the tokens before are the same."""
    digests, compared = house["llama"][2], 0
    fast = ask(engine(house, "llama"), digests, 30, logprobs=5)
    slow = ask(engine(house, "llama", kernels="torch"), digests, 30, logprobs=5)
    assert_agree(fast, slow)
    for ours, theirs in zip(fast, slow, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.logprobs is not None and b.logprobs is not None
            here, there = dict(a.logprobs.top), dict(b.logprobs.top)
            for token in here.keys() & there.keys():
                assert abs(here[token] - there[token]) < NOISE
                compared += 1
            if a.token != b.token:
                break
    assert compared > 500


@pytest.mark.parametrize("options", [{"step_tokens": 64}, {"cache_tokens": 2048}, {"adapter_slots": 2}])
def test_chunks_preemption_and_eviction_change_nothing(house: Any, options: dict[str, Any]) -> None:
    digests = house["llama"][2]
    fast = ask(engine(house, "llama", **options), digests, 24)
    assert_agree(fast, ask(engine(house, "llama", kernels="torch"), digests, 24, logprobs=5))


def test_the_same_run_gives_the_same_bits(house: Any) -> None:
    """Log probabilities and all, with draws and penalties in the batch."""

    def run() -> list[list[Token]]:
        sampling = {"temperature": 0.8, "top_p": 0.9, "seed": 7, "logprobs": 3, "presence_penalty": 0.1}
        driven = engine(house, "llama", prefix_cache=False)
        return ask(driven, house["llama"][2], 30, **sampling)

    plain = [[(t.token, t.logprobs) for t in answer] for answer in run()]
    assert plain == [[(t.token, t.logprobs) for t in answer] for answer in run()]


def test_more_sequences_than_a_graph_holds(house: Any) -> None:
    digests = house["llama"][2]
    fast = ask(engine(house, "llama", max_running=100), digests, 100)
    assert_agree(
        fast, ask(engine(house, "llama", max_running=100, kernels="torch"), digests, 100, logprobs=5)
    )


def test_a_long_context_is_shared_by_blocks(house: Any) -> None:
    prompt = torch.randint(3, VOCAB, (1900,), generator=torch.Generator().manual_seed(1)).tolist()
    answers = []
    for kernels in ("auto", "torch"):
        driven = engine(house, "llama", kernels=kernels)
        asked = driven.submit(prompt, house["llama"][2][2], max_new_tokens=40, logprobs=5)
        driven.drain()
        answers.append([driven.tokens[asked]])
    assert_agree(*answers)


def test_the_workspace_that_was_planned_is_enough(house: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The KV cache takes the rest of the memory, and the largest steps still run."""
    caplog.set_level("INFO")
    driven = engine(house, "llama", cache_tokens=0, step_tokens=8192)
    assert any("KV cache" in record.message for record in caplog.records)
    ask(driven, house["llama"][2], 64)
