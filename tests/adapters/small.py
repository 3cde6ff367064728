"""A tiny base, and adapters taken as a server takes them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from adapters import Manifest, inspect
from adapters.normal import AdapterWeights
from adapters.prepared import load, prepare
from tests.dense import base_of

VOCAB, MAX_RANK = 32, 16


def tiny(tied: bool = False, bias: bool = False) -> LlamaForCausalLM:
    """The same weights each time."""
    shape = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCAB,
        tie_word_embeddings=tied,
        attention_bias=bias,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(shape).eval()
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn(parameter.shape))
    return model


def take(
    folder: Path, tied: bool = False, bias: bool = False, max_rank: int = MAX_RANK
) -> tuple[Manifest, AdapterWeights, float]:
    """Checked, prepared where that is needed, loaded; and the measured error."""
    return take_over(tiny(tied, bias), folder, max_rank)


def take_over(
    model: PreTrainedModel, folder: Path, max_rank: int = MAX_RANK
) -> tuple[Manifest, AdapterWeights, float]:
    """The same over any base."""
    base = base_of(model)
    manifest = inspect(folder, base.shapes, max_rank)
    error = 0.0 if manifest.direct else prepare(folder, manifest, base, max_rank).error
    return manifest, load(folder, manifest, base.shapes, max_rank), error
