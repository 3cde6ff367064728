"""How well a model does on held-out rows: its loss, and how often greedy decoding gives the very answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from training.config import DataConfig
from training.data import Row, read_rows
from training.encode import IGNORED, Example, encode_rows, prompt_text
from training.model import Model, load_adapted, load_tokenizer
from training.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`accuracy` is the share of exact answers, `loss` nats per loss token, over `num_rows` rows."""

    accuracy: float
    loss: float
    num_rows: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same rows by the base alone and by the base under the adapter."""

    base: Evaluation
    adapter: Evaluation


def compare(
    base: str, adapter: Path, data: DataConfig, *, dtype: str = "auto", quantization: str = "none"
) -> Comparison:
    """Evaluates a saved adapter and its base on the rows of `data.eval`."""
    assert data.eval is not None, "the rows to compare on are data.eval"
    with quiet():
        tokenizer, model = load_tokenizer(base), load_adapted(base, adapter, dtype, quantization)
    rows = read_rows(data.eval)
    with model.disable_adapter():
        alone = evaluate(model, tokenizer, rows, data)
    return Comparison(base=alone, adapter=evaluate(model, tokenizer, rows, data))


def evaluate(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    data: DataConfig,
    batch_size: int = 32,
) -> Evaluation:
    """Loss and accuracy of `model` on `rows`."""
    examples = encode_rows(rows, tokenizer, data, data.eval or data.train)
    answers = answer(model, tokenizer, rows, data.format, batch_size)
    right = sum(said == row.completion.strip() for said, row in zip(answers, rows, strict=True))
    loss = held_out_loss(model, examples, int(tokenizer.pad_token_id), batch_size)
    return Evaluation(accuracy=right / len(rows), loss=loss, num_rows=len(rows))


def answer(
    model: Model, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], wanted: str, batch_size: int = 32
) -> list[str]:
    """What `model` says to each row's prompt, decoded greedily and stripped of blanks at both ends."""
    room = answer_room(tokenizer, rows)
    prompts = [prompt_text(row, tokenizer, wanted) for row in rows]
    said: list[str] = [""] * len(rows)
    # Prompts of like length share a batch, so that little of it is padding.
    order = sorted(range(len(rows)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        texts = _generated(model, tokenizer, [prompts[index] for index in chosen], room)
        for index, text in zip(chosen, texts, strict=True):
            said[index] = text.strip()
    return said


def answer_room(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> int:
    """Tokens that an answer may have: a few more than any right one, as a model that runs on is wrong."""
    return 4 + max(len(tokenizer(row.completion, add_special_tokens=False)["input_ids"]) for row in rows)


@torch.no_grad()
def _generated(
    model: Model, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int
) -> list[str]:
    encoded = tokenizer(
        list(prompts), add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
    ).to(model.device)
    encoded.pop("token_type_ids", None)
    ids: Tensor = model.generate(
        **encoded,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
    )  # int64 (batch, prompt + new)
    new = ids[:, encoded["input_ids"].shape[1] :]
    texts: list[str] = tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


def held_out_loss(model: Model, examples: Sequence[Example], pad: int, batch_size: int = 32) -> float:
    """Nats per loss token over all of `examples`, however they fall into batches."""
    total, count = loss_sums(model, by_length(examples), pad, batch_size)
    return total / count


def by_length(examples: Sequence[Example]) -> list[Example]:
    """Short ones first, so that little of a batch is padding."""
    return sorted(examples, key=lambda example: len(example.input_ids))


@torch.no_grad()
def loss_sums(model: Model, examples: Sequence[Example], pad: int, batch_size: int = 32) -> tuple[float, int]:
    """Nats in all over `examples`, and the number of their loss tokens."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(examples), batch_size):
        batch = examples[start : start + batch_size]
        ids, labels, mask = (part.to(model.device) for part in padded(batch, pad))
        logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        # (batch, length, vocab) against the token that comes next; soft tokens have logits before all others.
        total += float(
            cross_entropy(
                logits[:, -ids.shape[1] : -1].flatten(0, 1).float(),
                labels[:, 1:].flatten(),
                ignore_index=IGNORED,
                reduction="sum",
            )
        )
        count += int((labels[:, 1:] != IGNORED).sum())
    model.train(was_training)
    return total, count


def padded(examples: Sequence[Example], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, labels and attention mask of a batch, padded on the right: int64 (batch, longest) each."""
    longest = max(len(example.input_ids) for example in examples)
    shape = (len(examples), longest)
    ids, labels = torch.full(shape, pad), torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.int64)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        ids[row, :length] = torch.tensor(example.input_ids)
        labels[row, :length] = torch.tensor(example.labels)
        mask[row, :length] = 1
    return ids, labels, mask
