"""Cross entropy straight from hidden states: the logits of all tokens never exist at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

# Bytes of float32 logits held at once.
CHUNK_BYTES = 256 << 20


def summed_loss(hidden: Tensor, head: Tensor, labels: Tensor, count: int) -> Tensor:
    """Sum over hidden [tokens, width] of -log p(label), over `count`; head [vocabulary, width] is frozen."""
    loss: Tensor = _Loss.apply(hidden, head, labels, count)  # type: ignore[no-untyped-call]
    return loss


class _Loss(torch.autograd.Function):
    """The gradient is made beside the loss, chunk by chunk, while the logits are there."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, count: int) -> Tensor:
        rows = max(1, CHUNK_BYTES // (4 * head.shape[0]))
        total = hidden.new_zeros((), dtype=torch.float32)
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(labels), rows):
            part, wanted = hidden[start : start + rows], labels[start : start + rows]
            logits = (part @ head.T).float()
            total += cross_entropy(logits, wanted, reduction="sum")
            if grad is not None:
                logits = logits.softmax(-1)
                logits[torch.arange(len(wanted), device=wanted.device), wanted] -= 1
                torch.mm(logits.div_(count).to(head.dtype), head, out=grad[start : start + rows])
        ctx.save_for_backward(grad)
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * grads[0].to(grad.dtype), None, None, None
