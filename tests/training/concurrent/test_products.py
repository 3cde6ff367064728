"""Each fast path beside its slow twin."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.training.concurrent.conftest import rows_of
from training.concurrent import loss
from training.concurrent.attention import attend
from training.concurrent.batch import Segment, joined, make_batch
from training.concurrent.linear import Seats
from training.concurrent.loss import summed_losses
from training.concurrent.pointwise import Norm, Silu
from training.concurrent.updates import Grouped, OneByOne, Pair
from training.encode import IGNORED
from training.evaluate import padded

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
    pairs = [pair(rank) if rank else None for rank in ranks]
    twin = OneByOne(TOKENS, pairs)
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


def test_a_pair_of_float32_gathers_what_autograd_gives() -> None:
    torch.manual_seed(0)
    each, x, grad = pair(4), torch.randn(7, WIDTH), torch.randn(7, ROWS)
    each = Pair(each.a.float(), each.b.float(), each.scale, each.grad_a, each.grad_b)
    # What stood there before is kept.
    each.grad_b.fill_(1.0)
    leaves = [x.clone().requires_grad_(), each.a.clone().requires_grad_(), each.b.clone().requires_grad_()]
    wanted = torch.autograd.grad((leaves[0] @ leaves[1].T) @ leaves[2], leaves, grad)
    twin, grad_x = OneByOne([7], [each]), torch.zeros_like(x)
    twin.gather(grad, grad_x, x, *twin.add(torch.zeros_like(grad), x))
    found = (grad_x, each.grad_a, (each.grad_b - 1.0) / each.scale)
    assert all(torch.allclose(mine, theirs, atol=1e-4) for mine, theirs in zip(found, wanted, strict=True))


@pytest.mark.parametrize("chunk_rows", [1, 4, 1000])
@pytest.mark.parametrize("together", [True, False])
def test_losses_in_chunks_are_each_jobs_whole_loss(
    monkeypatch: pytest.MonkeyPatch, chunk_rows: int, together: bool
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(loss, "CHUNK_BYTES", chunk_rows * 4 * 400)
    jobs, counts = [rows_of(1).train[:3], rows_of(2).train[:1], rows_of(3).train[:2]], (7, 3, 11)
    batch = make_batch(jobs, 0, torch.device("cpu"))
    head, hidden = torch.randn(400, 16), torch.randn(len(batch.ids), 16, requires_grad=True)
    whole = hidden.detach().clone().requires_grad_()
    mine = summed_losses(hidden, head, batch, counts, together)
    labels = torch.cat([padded(rows, 0)[1].roll(-1, 1).flatten() for rows in jobs])
    logits = (whole @ head.T).split(batch.sizes)
    reference = torch.stack(
        [
            cross_entropy(part, wanted, reduction="sum", ignore_index=IGNORED) / count
            for part, wanted, count in zip(logits, labels.split(batch.sizes), counts, strict=True)
        ]
    )
    weights = torch.tensor([2.0, 1.0, 3.0])
    (weights * mine).sum().backward()
    (weights * reference).sum().backward()
    assert torch.allclose(mine, reference)
    assert hidden.grad is not None and whole.grad is not None
    assert torch.allclose(hidden.grad, whole.grad, atol=1e-5)


def test_a_batch_is_each_jobs_padded_rows() -> None:
    jobs = [rows_of(1).train[:3], rows_of(2).train[:2]]
    batch = make_batch(jobs, 9, torch.device("cpu"))
    parts = [padded(rows, 9) for rows in jobs]
    assert torch.equal(batch.ids, torch.cat([ids.flatten() for ids, _, _ in parts]))
    following = torch.cat([labels.roll(-1, 1).flatten() for _, labels, _ in parts])
    assert torch.equal(batch.labels, following[batch.places])
    assert batch.foretold == tuple(int((labels != IGNORED).sum()) for _, labels, _ in parts)
    assert torch.equal(
        batch.positions, torch.cat([torch.arange(ids.shape[1]).repeat(len(ids)) for ids, _, _ in parts])
    )


def test_neighbours_of_one_length_are_joined() -> None:
    segments = (Segment(0, 10, 2), Segment(10, 15, 1), Segment(15, 18, 1), Segment(18, 23, 1))
    assert joined(segments) == (Segment(0, 15, 3), Segment(15, 18, 1), Segment(18, 23, 1))


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_and_activations_are_torchs_own(together: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    batch = make_batch([rows_of(1).train[:3], rows_of(2).train[:1]], 0, torch.device("cpu"))
    seats = Seats(together)
    weight = torch.randn(24).to(dtype)
    norm, silu = Norm(SimpleNamespace(weight=weight, variance_epsilon=1e-5), seats), Silu(nn.SiLU(), seats)
    x = torch.randn(1, len(batch.ids), 3, 24).to(dtype)
    grad = torch.randn_like(x)

    def passed(norms: object, activates: object) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        y = activates(norms(leaf))  # type: ignore[operator]
        return [y, *torch.autograd.grad(y, [leaf], grad)]

    with seats.taken(batch, {}):
        found = passed(norm, silu)
    wanted = passed(lambda leaf: F.rms_norm(leaf, (24,), weight, 1e-5), F.silu)
    limit = 1e-5 if dtype == torch.float32 else 5e-2
    assert all(torch.allclose(a, b, rtol=limit, atol=limit) for a, b in zip(found, wanted, strict=True))


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
