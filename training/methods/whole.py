"""Training a model's own weights: which of them learn, and the folder that comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedTokenizerBase

from training.config import TrainConfig
from training.methods.targets import chosen_layers, layer_of
from training.model import checkpoint


def open_weights(model: Any, config: TrainConfig) -> Any:
    """`model` with the weights of the chosen layers to train, or with all of them."""
    layers = chosen_layers(model, config)
    for name, weight in model.named_parameters():
        weight.requires_grad_(layers is None or layer_of(name) in layers)
    if config.gradient_checkpointing:
        checkpoint(model)
    model.config.use_cache = False
    return model


def as_stored(model: Any, base: str) -> Any:
    """`model` in the number format of the base's files, so that it is judged as it will be served."""
    dtype = getattr(AutoConfig.from_pretrained(base), "dtype", None)
    return model.to(dtype if isinstance(dtype, torch.dtype) else torch.float32)


def write_model(folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """A folder that is a base: weights, configuration, tokenizer with its template."""
    model.config.use_cache = True
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
