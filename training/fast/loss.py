"""The loss without a whole batch's logits: only rows that count meet the output head, a few at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.encode import IGNORED

# Of 128,256 words, 1.0 MB of logits and gradients a row.
CHUNK = 512


class RowsLoss(torch.autograd.Function):
    """Nats of targets [rows] under softmax(hidden [rows, width] head'), summed.

    head [vocab, width] is frozen. The gradient is made along with the loss, while the logits are there.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        grad = torch.empty_like(hidden)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), CHUNK):
            rows = slice(start, start + CHUNK)
            wanted = targets[rows, None]
            log_p = (hidden[rows] @ head.T).log_softmax(-1, dtype=torch.float32)
            total -= log_p.gather(1, wanted).sum()
            p = log_p.exp_()
            p.scatter_add_(1, wanted, torch.full_like(wanted, -1.0, dtype=p.dtype))
            torch.mm(p.to(head.dtype), head, out=grad[rows])
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = ctx.saved_tensors
        return grad.mul_(grads[0]), None, None


def rows_loss(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """`RowsLoss`, typed: float32 scalar."""
    total: Tensor = RowsLoss.apply(hidden, head, targets)  # type: ignore[no-untyped-call]
    return total


def rows_that_count(labels: Tensor) -> tuple[Tensor, Tensor]:
    """labels int64 (batch, length) -> indices into batch * length before loss tokens, and the tokens."""
    following = torch.full_like(labels, IGNORED)
    following[:, :-1] = labels[:, 1:]
    following = following.flatten()
    rows = (following != IGNORED).nonzero().flatten()
    return rows, following[rows]


def fast_batch(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch of the collator with its loss rows known on the host, and no mask.

    Padding stands on the right, where no token that counts looks; attention is then plainly causal.
    """
    rows, targets = rows_that_count(batch["labels"])
    kept = {name: tensor for name, tensor in batch.items() if name != "attention_mask"}
    return kept | {"loss_rows": rows, "loss_targets": targets}
