"""A run's model without its weights: all of its modules, adapter and quantization included, on meta."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.integrations.bitsandbytes import replace_with_bnb_linear

from training.base import read_base
from training.config import TrainConfig
from training.errors import InvalidBase
from training.methods.table import METHODS
from training.methods.whole import open_weights
from training.model import Model, adapt


def skeleton(
    config: TrainConfig, dtype: torch.dtype, num_layers: int | None = None, *, fast: bool = False
) -> Model:
    """The model that the run trains, cut to `num_layers` if given; `fast` as for `adapt`.

    Raises `InvalidBase`, `InvalidConfig`.
    """
    structure, whole = read_base(config.base), METHODS[config.method].makes_model
    held = torch.float32 if whole else dtype
    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(_cut(structure, num_layers), dtype=held)
        except ValueError as error:
            raise InvalidBase(f"{config.base} is no causal language model: {error}") from error
        if whole:
            return open_weights(model, config)
        if config.quantization != "none":
            model = _quantized(model, config.quantization, dtype)
        return adapt(model, _afresh(config), fast)


def _afresh(config: TrainConfig) -> TrainConfig:
    """The same shapes, from a start that needs neither the base's weights nor an adapter's."""
    return replace(config, init_from=None, lora=replace(config.lora, init="default"))


def _cut(structure: Any, num_layers: int | None) -> Any:
    if num_layers is None:
        return structure
    structure = deepcopy(structure)
    text = structure.get_text_config()
    text.num_hidden_layers = num_layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:num_layers]
    return structure


def _quantized(model: Model, quantization: str, dtype: torch.dtype) -> Model:
    """What loading with this quantization makes of the linears; the output head stays as it is."""
    how = BitsAndBytesConfig(
        load_in_4bit=quantization == "nf4",
        load_in_8bit=quantization == "int8",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    head = {name for name, part in model.named_modules() if part is model.get_output_embeddings()}
    model = replace_with_bnb_linear(model, modules_to_not_convert=sorted(head), quantization_config=how)
    model.is_quantized = True
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = how.load_in_4bit, how.load_in_8bit
    return model
