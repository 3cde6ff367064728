"""Elastic weight consolidation: new rows may move a weight the less, the more old rows depend on it.

penalty = ewc / 2 * sum_i F_i (w_i - w0_i)^2,   F_i = mean over old rows of (d log p(row) / d w_i)^2
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training.encode import IGNORED, Example
from training.evaluate import padded
from training.model import Model


@dataclass(frozen=True, slots=True)
class Tether:
    """What holds the weights: where they were, and how firmly each is held."""

    weights: Mapping[str, nn.Parameter]
    anchors: Mapping[str, Tensor]
    firmness: Mapping[str, Tensor]
    strength: float

    def penalty(self) -> Tensor:
        """A number in nats, which training adds to the loss of every step."""
        pulls = [
            (self.firmness[name] * (weight - self.anchors[name]).square()).sum()
            for name, weight in self.weights.items()
        ]
        return self.strength / 2 * torch.stack(pulls).sum()


def make_tether(
    model: Model,
    weights: Mapping[str, nn.Parameter],
    old: Sequence[Example],
    *,
    strength: float,
    num_rows: int,
    seed: int,
    pad: int,
) -> Tether:
    """Measures on up to `num_rows` old rows, drawn by the seed, what holds the weights where they are."""
    rows = Random(seed).sample(list(old), min(num_rows, len(old)))
    anchors = {name: weight.detach().clone() for name, weight in weights.items()}
    return Tether(weights, anchors, fisher(model, weights, rows, pad), strength)


def fisher(
    model: Model, weights: Mapping[str, nn.Parameter], rows: Sequence[Example], pad: int
) -> dict[str, Tensor]:
    """Mean over rows of the squared gradient of a row's log likelihood, for each weight."""
    was_training = model.training
    model.eval()
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for row in rows:
        # One row at a time: the square of a batch's gradient is another number.
        gradients = torch.autograd.grad(_nats(model, row, pad), list(weights.values()), allow_unused=True)
        for name, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                squares[name] += gradient.square() / len(rows)
    model.train(was_training)
    return squares


def _nats(model: Model, row: Example, pad: int) -> Tensor:
    ids, labels, mask = (part.to(model.device) for part in padded([row], pad))
    logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    # Soft tokens before the prompt have logits of their own.
    predicted = logits[:, -ids.shape[1] : -1].flatten(0, 1).float()
    return cross_entropy(predicted, labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")
