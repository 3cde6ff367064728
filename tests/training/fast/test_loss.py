from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from training.config import LoraSection, TrainConfig
from training.encode import IGNORED
from training.fast import loss as module
from training.fast.head import make_loss_fast
from training.fast.loss import fast_batch, rows_loss, rows_that_count
from training.model import adapt, load_base


@pytest.mark.parametrize("rows", [0, 1, 4, 9])
def test_loss_and_gradient_are_cross_entropys(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    torch.manual_seed(rows)
    hidden = torch.randn(rows, 8, dtype=torch.float64, requires_grad=True)
    head, targets = torch.randn(11, 8, dtype=torch.float64), torch.randint(11, (rows,))
    expected = cross_entropy(hidden @ head.T, targets, reduction="sum")
    (slow,) = torch.autograd.grad(expected / 3, hidden)
    total = rows_loss(hidden, head, targets)
    (fast,) = torch.autograd.grad(total / 3, hidden)
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)


def test_only_rows_before_a_loss_token_count() -> None:
    labels = torch.tensor(
        [[IGNORED, 5, IGNORED, 7], [IGNORED, IGNORED, IGNORED, IGNORED], [9, 1, 2, IGNORED]]
    )
    rows, targets = rows_that_count(labels)
    assert rows.tolist() == [0, 2, 8, 9]
    assert targets.tolist() == [5, 7, 1, 2]


@pytest.mark.parametrize("count", [None, torch.tensor(11)])
def test_a_models_loss_is_transformers(config: TrainConfig, count: torch.Tensor | None) -> None:
    """With padding on the right and no mask, as the fast collator gives it."""
    adapted = adapt(load_base(config.base), config).train()
    ids = torch.arange(10, 34).view(2, 12)
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[0, :4] = IGNORED
    labels[1, 7:], mask[1, 7:] = IGNORED, 0
    batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    slow = adapted(**batch, num_items_in_batch=count).loss
    assert make_loss_fast(adapted.get_base_model())
    for fast in (batch, fast_batch(batch)):
        torch.testing.assert_close(adapted(**fast, num_items_in_batch=count).loss, slow)
    assert adapted.eval()(**batch).logits.shape[:2] == (2, 12)


def test_a_head_that_learns_keeps_its_logits(config: TrainConfig) -> None:
    base = load_base(config.base)
    base.get_output_embeddings().weight.requires_grad_(True)
    assert not make_loss_fast(base)
    other = adapt(load_base(config.base), replace(config, lora=LoraSection(rank=4))).get_base_model()
    other.config.model_type = "gemma3"
    assert not make_loss_fast(other)
