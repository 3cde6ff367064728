"""Answers by choice: the label whose words, its end included, the model finds likeliest after the prompt."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from training.config import DataConfig
from training.data import Row
from training.encode import IGNORED, Example, encode_rows
from training.errors import InvalidConfig
from training.evaluate import padded
from training.model import Model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_LABELS = 100


def find_labels(told: Sequence[str] | None, rows: Sequence[Row]) -> tuple[str, ...]:
    """The labels to choose from. Raises `InvalidConfig` where they are not told and too many to be labels."""
    labels = tuple(dict.fromkeys(told or sorted({row.completion for row in rows})))
    if len(labels) > MAX_LABELS:
        raise InvalidConfig(
            [
                f"the train rows have {len(labels)} different answers, at most {MAX_LABELS} are taken for "
                'labels: name evaluation.labels, or set evaluation.answers = "generate"'
            ]
        )
    return labels


def choose(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    labels: Sequence[str],
    data: DataConfig,
    batch_size: int = 32,
) -> list[str]:
    """The likeliest of `labels` for each row."""
    # A label counts with the token that ends it, so that one which begins like another is told from it. None
    # is cut or left out for its length: the row fits, and its labels differ by a few tokens.
    asked = [_with_answer(row, label) for row in rows for label in labels]
    examples = encode_rows(asked, tokenizer, replace(data, max_length=sys.maxsize), data.eval or data.train)
    costs = torch.tensor(answer_losses(model, examples, int(tokenizer.pad_token_id), batch_size))
    return [labels[index] for index in costs.view(len(rows), len(labels)).argmin(dim=1).tolist()]


def _with_answer(row: Row, answer: str) -> Row:
    return replace(row, messages=(*row.messages[:-1], {"role": "assistant", "content": answer}))


@torch.no_grad()
def answer_losses(model: Model, examples: Sequence[Example], pad: int, batch_size: int = 32) -> list[float]:
    """Nats of each example's loss tokens together, in the order given."""
    losses = [0.0] * len(examples)
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].input_ids))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        parts = padded([examples[index] for index in chosen], pad)
        ids, labels, mask = (part.to(model.device) for part in parts)
        logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        # (batch, vocab, length - 1); soft tokens have logits before all others.
        nexts = logits[:, -ids.shape[1] : -1].transpose(1, 2).float()
        tokens = cross_entropy(nexts, labels[:, 1:], ignore_index=IGNORED, reduction="none")
        for index, loss in zip(chosen, tokens.sum(dim=1).tolist(), strict=True):
            losses[index] = loss
    return losses
