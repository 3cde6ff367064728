"""A language whose next token depends on the last two, a base that knows it, and a changed one to learn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from loadtests.claims.scale import Scale
from training.concurrent.rows import Rows
from training.demo.pretrain import Schedule, pretrain
from training.encode import IGNORED, Example
from training.model import Model

# Sharper than uniform, so that there is something to foretell.
SHARPNESS = 3.0
# Of the pairs of tokens, how many are followed by something else in the changed language.
CHANGED = 0.5
PRETRAIN_ROWS = 8192
HELD_SEED = 10_000


@dataclass(frozen=True, slots=True)
class Chain:
    """odds: [vocabulary, vocabulary, vocabulary], of the next token after the last two."""

    odds: Tensor

    def rows(self, num_rows: int, length: int, seed: int) -> Tensor:
        """int64 [num_rows, length]."""
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(len(self.odds), (num_rows, 2), generator=generator)
        for _ in range(length - 2):
            odds = self.odds[tokens[:, -2], tokens[:, -1]]
            tokens = torch.cat([tokens, torch.multinomial(odds, 1, generator=generator)], 1)
        return tokens


def languages(vocabulary: int) -> tuple[Chain, Chain]:
    """The base's language, and the one to learn."""
    generator = torch.Generator().manual_seed(0)
    shape = (vocabulary, vocabulary, vocabulary)
    old, new = ((SHARPNESS * torch.randn(shape, generator=generator)).softmax(-1) for _ in range(2))
    changes = torch.rand(shape[:2], generator=generator) < CHANGED
    return Chain(old), Chain(torch.where(changes[..., None], new, old))


def make_base(scale: Scale, device: torch.device) -> Model:
    """A Llama that has learned the base's language; the same for a seed."""
    config = LlamaConfig(
        vocab_size=scale.vocabulary,
        hidden_size=scale.hidden,
        intermediate_size=2 * scale.hidden,
        num_hidden_layers=scale.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=scale.length,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(device)
    rows = languages(scale.vocabulary)[0].rows(PRETRAIN_ROWS, scale.length, seed=1)
    schedule = Schedule(num_steps=scale.pretrain_steps, batch_size=32, row_length=scale.length)
    pretrain(model, rows.to(device), schedule, None)
    return model


def make_rows(scale: Scale, seed: int) -> Rows:
    """Of the language to learn: each seed has rows of its own, and all are judged on the same."""
    chain = languages(scale.vocabulary)[1]
    train = chain.rows(scale.num_rows, scale.length, seed)
    held = chain.rows(scale.num_held, scale.length, HELD_SEED)
    return Rows(_examples(train), _examples(held))


def _examples(rows: Tensor) -> list[Example]:
    """Nothing foretells the first two tokens."""
    return [Example(ids, [IGNORED, IGNORED, *ids[2:]]) for ids in rows.tolist()]
