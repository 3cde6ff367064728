"""A causal model whose loss comes from `RowsLoss`."""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from training.fast.loss import rows_loss, rows_that_count

# Whose logits are the head's product with the decoder's output, and nothing else.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def make_loss_fast(causal: Any) -> bool:
    """Has a model of a known family with a frozen, plain head skip its logits in training; says whether."""
    if can_skip_logits(causal):
        causal.forward = MethodType(_forward, causal)
        return True
    return False


def can_skip_logits(causal: Any) -> bool:
    """Whether it is such a model."""
    head = causal.get_output_embeddings()
    is_plain = type(head) is nn.Linear and not head.weight.requires_grad
    return causal.config.model_type in FAMILIES and is_plain


def takes_loss_rows(model: Any) -> bool:
    """Whether a model, or the one under its adapter, has been made fast here."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(causal.forward, "__func__", None) is _forward


def _forward(
    self: Any,
    *args: Any,
    labels: Tensor | None = None,
    loss_rows: Tensor | None = None,
    loss_targets: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
    **kwargs: Any,
) -> Any:
    """As transformers' own; with labels in training, the loss alone."""
    if labels is None or not self.training:
        return type(self).forward(self, *args, labels=labels, num_items_in_batch=num_items_in_batch, **kwargs)
    if loss_rows is None or loss_targets is None:
        # Waits for the device: a collator that knows the labels on the host saves that.
        loss_rows, loss_targets = rows_that_count(labels)
    hidden = self.model(*args, **kwargs)[0]
    rows = hidden.flatten(0, 1).index_select(0, loss_rows)
    total = rows_loss(rows, self.get_output_embeddings().weight, loss_targets)
    count = max(len(loss_targets), 1) if num_items_in_batch is None else num_items_in_batch
    return CausalLMOutputWithPast(loss=total / count)
