"""A plain loop that trains a small model from scratch on packed rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Tensor
from transformers import PreTrainedModel

from training.progress import Progress, Report


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how hard: `batch_size` rows of `row_length` tokens a step."""

    num_steps: int = 300
    batch_size: int = 16
    row_length: int = 128
    learning_rate: float = 5e-3
    warmup_steps: int = 20
    weight_decay: float = 0.05
    clip: float = 1.0

    def factor(self, step: int) -> float:
        """Linear warm-up, then a cosine down to a twentieth."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        through = (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
        return 0.05 + 0.95 * 0.5 * (1 + cos(pi * through))


def packed(documents: Sequence[Sequence[int]], schedule: Schedule) -> Tensor:
    """Documents laid end to end and cut: int64 (rows, row_length)."""
    flat = torch.tensor([token for document in documents for token in document])
    num_rows = len(flat) // schedule.row_length
    return flat[: num_rows * schedule.row_length].view(num_rows, schedule.row_length)


def pretrain(model: PreTrainedModel, rows: Tensor, schedule: Schedule, report: Report | None) -> None:
    """Trains `model` in place on `rows` (rows, row_length), and leaves it in eval mode."""
    began = time.monotonic()
    optimizer = torch.optim.AdamW(_groups(model, schedule), lr=schedule.learning_rate, betas=(0.9, 0.95))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.factor)
    model.train()
    for step, batch in enumerate(_batches(rows, schedule), start=1):
        loss: Tensor = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if report:
            report(Progress("base", step, schedule.num_steps, time.monotonic() - began, float(loss.detach())))
    model.eval()


def _batches(rows: Tensor, schedule: Schedule) -> Iterator[Tensor]:
    """`num_steps` batches; the rows are shuffled anew each time they run out."""
    order = torch.randperm(len(rows))
    for _ in range(schedule.num_steps):
        if len(order) < schedule.batch_size:
            order = torch.cat([order, torch.randperm(len(rows))])
        yield rows[order[: schedule.batch_size]]
        order = order[schedule.batch_size :]


def _groups(model: PreTrainedModel, schedule: Schedule) -> list[dict[str, object]]:
    """Norm weights are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
