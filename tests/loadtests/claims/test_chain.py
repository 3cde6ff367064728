"""The languages that the bench of claims teaches."""

import torch

from loadtests.claims.chain import CHANGED, languages, make_rows
from loadtests.claims.scale import SCALES
from training.encode import IGNORED

TINY = SCALES["tiny"]


def test_about_half_of_the_pairs_are_followed_by_something_else() -> None:
    old, new = languages(16)
    changed = (old.odds != new.odds).any(-1).float().mean()
    assert abs(float(changed) - CHANGED) < 0.1
    assert torch.allclose(new.odds.sum(-1), torch.ones(16, 16))


def test_tokens_follow_the_last_two_as_often_as_the_odds_say() -> None:
    chain = languages(4)[1]
    rows = chain.rows(4000, 8, seed=3)
    seen = torch.zeros(4, 4, 4)
    for triple in rows.unfold(1, 3, 1).reshape(-1, 3):
        seen[tuple(triple)] += 1
    shares = seen / seen.sum(-1, keepdim=True)
    assert torch.allclose(shares, chain.odds, atol=0.06)


def test_seeds_bring_rows_of_their_own_and_are_judged_on_the_same() -> None:
    first, again, second = (make_rows(TINY, seed) for seed in (0, 0, 1))
    assert first == again
    assert first.train != second.train and first.held == second.held
    assert all(row.labels == [IGNORED, IGNORED, *row.input_ids[2:]] for row in first.train)
