import math

import pytest
import torch

from server.engine import sampler
from server.engine.messages import Sampling
from server.engine.sampler import Row, Sampled

VOCAB = 50


def draw(
    logits: torch.Tensor, history: list[int] | None = None, num_prompt: int = 0, **options: object
) -> Sampled:
    row = Row(7, Sampling(**options), history or [], num_prompt)  # type: ignore[arg-type]
    return sampler.draw(logits.clone()[None], [row]).fetch()[7]


def frequencies(logits: torch.Tensor, draws: int, **options: object) -> torch.Tensor:
    rows = [Row(i, Sampling(seed=i, **options), [1] * (i % 5), 0) for i in range(draws)]  # type: ignore[arg-type]
    sampled = sampler.draw(logits.repeat(draws, 1), rows).fetch()
    return torch.bincount(torch.tensor([s.token for s in sampled.values()]), minlength=len(logits)) / draws


def test_draws_follow_the_softmax() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0])
    seen = frequencies(logits, 20_000, temperature=1.0)
    torch.testing.assert_close(seen, logits.softmax(0), atol=0.012, rtol=0)
    cooler = frequencies(logits, 20_000, temperature=0.5)
    torch.testing.assert_close(cooler, (logits / 0.5).softmax(0), atol=0.012, rtol=0)


@pytest.mark.parametrize(
    ("options", "allowed"),
    [({"top_k": 2}, {3, 0}), ({"top_p": 0.6}, {3}), ({"top_p": 0.7}, {3, 0}), ({"min_p": 0.3}, {3, 0})],
)
def test_filters_keep_exactly_what_they_say(options: dict[str, float], allowed: set[int]) -> None:
    """Probabilities are 0.24, 0.09, 0.03, 0.64."""
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0])
    seen = frequencies(logits, 3000, temperature=1.0, **options)
    assert {int(i) for i in seen.nonzero()} == allowed


def test_a_draw_depends_on_seed_and_position_and_on_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(VOCAB, generator=generator)
    tokens = {
        (seed, n): draw(logits, [1] * n, temperature=1.0, seed=seed).token
        for seed in range(20)
        for n in range(20)
    }
    assert len(set(tokens.values())) > 10
    crowd = [Row(i, Sampling(temperature=1.0, seed=i), [1] * 3, 0) for i in range(20)]
    together = sampler.draw(logits.repeat(20, 1), crowd).fetch()
    assert all(together[i].token == tokens[i, 3] for i in range(20))
    assert draw(logits, temperature=1.0, seed=2**64 - 1).token is not None


def test_penalties_are_those_of_the_contract() -> None:
    logits = torch.tensor([3.0, 2.9, -1.0, 2.8])
    assert draw(logits, [0], num_prompt=1, repetition_penalty=1.1).token == 1
    assert draw(logits, [0], num_prompt=1, presence_penalty=2.0).token == 0
    assert draw(logits, [0], num_prompt=0, presence_penalty=0.15).token == 1
    once = draw(logits, [0, 1], num_prompt=0, frequency_penalty=0.15)
    twice = draw(logits, [0, 0, 1, 1], num_prompt=0, frequency_penalty=0.15)
    assert (once.token, twice.token) == (0, 3)


@pytest.mark.parametrize("temperature", [1e-39, 1e-6])
def test_the_coldest_draws_are_greedy(temperature: float) -> None:
    logits = torch.tensor([3.0, -2.0, 40.0, 2.8])
    assert draw(logits, temperature=temperature, top_p=0.9, seed=1).token == 2


def test_logprobs_are_of_the_untouched_distribution() -> None:
    logits = torch.tensor([3.0, 2.9, -1.0, 2.8])
    sampled = draw(logits, [0], num_prompt=0, presence_penalty=2.0, logprobs=2)
    assert sampled.token == 1
    assert sampled.logprobs is not None
    reference = logits.log_softmax(0)
    assert math.isclose(sampled.logprobs.chosen, float(reference[1]), rel_tol=1e-5)
    assert [token for token, _ in sampled.logprobs.top] == [0, 1]
    assert draw(logits).logprobs is None
    assert draw(logits, logprobs=0).logprobs is not None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_not_finite_have_no_token_and_spoil_no_other(bad: float) -> None:
    logits = torch.zeros(3, 4)
    logits[:, 2] = 1.0
    logits[1, 3] = bad
    sampled = sampler.draw(logits, [Row(i, Sampling(), [], 0) for i in range(3)]).fetch()
    assert [sampled[i].token for i in range(3)] == [2, None, 2]
