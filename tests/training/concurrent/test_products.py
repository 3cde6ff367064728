"""Each fast path beside its slow twin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from training.concurrent import loss
from training.concurrent.attention import attend
from training.concurrent.batch import Segment
from training.concurrent.loss import summed_loss
from training.concurrent.updates import Grouped, OneByOne, Pair

TOKENS, WIDTH, ROWS = (5, 16, 3), 64, 96


def pair(rank: int) -> Pair:
    return Pair(
        torch.randn(rank, WIDTH).bfloat16() * 0.1,
        torch.randn(rank, ROWS).bfloat16() * 0.1,
        2.0 / rank,
        torch.zeros(rank, WIDTH),
        torch.zeros(rank, ROWS),
    )


@pytest.mark.parametrize("ranks", [(4, 16, 1), (8, 0, 3), (0, 0, 5)])
def test_one_grouped_product_is_one_for_each_job(ranks: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    ends = torch.tensor(TOKENS).cumsum(0)
    segments = [Segment(int(end) - count, int(end), 1) for end, count in zip(ends, TOKENS, strict=True)]
    pairs = [pair(rank) if rank else None for rank in ranks]
    twin = OneByOne([(segment, each) for segment, each in zip(segments, pairs, strict=True) if each])
    x, grad = torch.randn(sum(TOKENS), WIDTH).bfloat16(), torch.randn(sum(TOKENS), ROWS).bfloat16()

    def passed(updates: OneByOne | Grouped) -> list[Tensor]:
        for each in pairs:
            for tensor in (each.grad_a, each.grad_b) if each else ():
                tensor.zero_()
        y, grad_x = torch.zeros_like(grad), torch.zeros_like(x)
        updates.gather(grad, grad_x, x, *updates.add(y, x))
        return [
            y,
            grad_x,
            *(tensor.clone() for each in pairs if each for tensor in (each.grad_a, each.grad_b)),
        ]

    for slow, fast in zip(passed(twin), passed(Grouped(pairs, ends.int())), strict=True):
        assert slow.any()
        assert torch.allclose(slow.float(), fast.float(), rtol=0.03, atol=0.03 * float(slow.abs().max()))


@pytest.mark.parametrize("chunk_rows", [1, 4, 1000])
def test_a_loss_in_chunks_is_the_whole_loss(monkeypatch: pytest.MonkeyPatch, chunk_rows: int) -> None:
    torch.manual_seed(0)
    head, labels = torch.randn(50, 16), torch.randint(50, (9,))
    monkeypatch.setattr(loss, "CHUNK_BYTES", chunk_rows * 4 * 50)
    hidden = torch.randn(9, 16, requires_grad=True)
    whole = hidden.detach().clone().requires_grad_()
    mine, reference = (
        summed_loss(hidden, head, labels, 7),
        cross_entropy(whole @ head.T, labels, reduction="sum") / 7,
    )
    (2 * mine).backward()
    (2 * reference).backward()
    assert torch.allclose(mine, reference)
    assert hidden.grad is not None and whole.grad is not None
    assert torch.allclose(hidden.grad, whole.grad, atol=1e-6)


@pytest.mark.parametrize("window", [None, 3])
def test_attention_stays_within_rows(window: int | None) -> None:
    torch.manual_seed(0)
    segments = [Segment(0, 10, 2), Segment(10, 17, 1)]
    q, k, v = torch.randn(1, 4, 17, 8), torch.randn(1, 2, 17, 8), torch.randn(1, 2, 17, 8)
    out, _ = attend(None, q, k, v, None, segments=segments, sliding_window=window)
    place = torch.arange(17)
    row = torch.tensor([0] * 5 + [1] * 5 + [2] * 7)
    back = place[:, None] - place[None, :]
    sees = (row[:, None] == row[None, :]) & (back >= 0) & (back < (window or 17))
    keys, values = (x.repeat_interleave(2, 1) for x in (k, v))
    scores = (q @ keys.transpose(2, 3) / 8**0.5).masked_fill(~sees, float("-inf"))
    assert torch.allclose(out, (scores.softmax(-1) @ values).transpose(1, 2), atol=1e-6)
