"""Cross entropy straight from hidden states: the logits of all tokens never exist at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from training.concurrent.batch import Batch

# Bytes of float32 logits held at once.
CHUNK_BYTES = 256 << 20


def summed_losses(
    hidden: Tensor, head: Tensor, batch: Batch, counts: Sequence[int], together: bool
) -> Tensor:
    """For each job the sum of -log p(label) over its count: float32 [jobs].

    hidden [tokens, width]; head [vocabulary, width] is frozen. `together`: jobs share products.
    """
    losses: Tensor = _Losses.apply(hidden, head, batch, counts, together)  # type: ignore[no-untyped-call]
    return losses


class _Losses(torch.autograd.Function):
    """The gradient is made beside the loss, chunk by chunk, while the logits are there."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, batch: Batch, counts: Sequence[int], together: bool
    ) -> Tensor:
        grad = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        shares = torch.tensor(counts, dtype=torch.float32, device=hidden.device)
        foretold = torch.tensor(batch.foretold, device=hidden.device)
        share = shares.repeat_interleave(foretold, output_size=len(batch.labels))[:, None]
        nats = share.new_empty(len(batch.labels), 1)
        rows = max(1, CHUNK_BYTES // (4 * head.shape[0]))
        for part in _chunks([len(batch.labels)] if together else batch.foretold, rows):
            places, wanted = batch.places[part], batch.labels[part, None]
            log_p = torch.mm(hidden.index_select(0, places), head.T).log_softmax(-1, dtype=torch.float32)
            torch.gather(log_p, 1, wanted, out=nats[part])
            if grad is not None:
                p = log_p.exp_()
                p.scatter_add_(1, wanted, p.new_full((1, 1), -1.0).expand_as(wanted))
                grad.index_copy_(0, places, torch.mm(p.div_(share[part]).to(head.dtype), head))
        ctx.save_for_backward(grad)
        ctx.sizes = batch.sizes
        sums = [mine.sum() for mine in nats.split(batch.foretold)]
        return torch.stack(sums).neg_().div_(shares)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (grad,) = ctx.saved_tensors
        sizes = torch.tensor(ctx.sizes, device=grad.device)
        scale = grads[0].to(grad.dtype).repeat_interleave(sizes, output_size=len(grad))
        return grad * scale[:, None], None, None, None, None


def _chunks(sizes: Sequence[int], most: int) -> Iterator[slice]:
    """Slices of at most `most` rows, none of which holds rows of two of the parts."""
    begin = 0
    for size in sizes:
        for start in range(begin, begin + size, most):
            yield slice(start, min(start + most, begin + size))
        begin += size
