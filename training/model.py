"""Loads a base for training and lays a fresh adapter over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerBase

from training.config import TrainConfig
from training.errors import InvalidBase
from training.methods.lineage import starting_config
from training.methods.peft_configs import peft_config
from training.quiet import hushed

Model = Any


def load_tokenizer(base: str) -> PreTrainedTokenizerBase:
    """The base's tokenizer, with something to pad with. Raises `InvalidBase`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise InvalidBase(f"{base} has no tokenizer that can be loaded: {error}") from error
    if tokenizer.pad_token_id is None:
        # Only the attention mask and the labels decide what counts, so any token can pad.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(
    base: str,
    dtype: str = "auto",
    quantization: str = "none",
    storage: torch.dtype = torch.uint8,
    on_device: bool = True,
) -> Model:
    """The base in eval mode, on this process' GPU if there is one. Raises `InvalidBase`.

    4-bit codes are kept in tensors of type `storage`; without `on_device` all stays in the host's memory.
    """
    kind = resolve_dtype(dtype)
    options: dict[str, Any] = {"dtype": kind}
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=kind,
            bnb_4bit_quant_storage=storage,
        )
    elif quantization == "int8":
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    if on_device and torch.cuda.is_available():
        options["device_map"] = {"": torch.cuda.current_device()}
    try:
        model = AutoModelForCausalLM.from_pretrained(base, **options)
    except (OSError, ValueError) as error:
        raise InvalidBase(f"{base} cannot be loaded as a causal language model: {error}") from error
    return model.eval()


def resolve_dtype(name: str) -> torch.dtype:
    """The number format that a config's `dtype` stands for on this machine."""
    if name == "auto":
        name = "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def adapt(model: Model, config: TrainConfig, fast: bool = False) -> PeftModel:
    """`model` with an adapter to train: `init_from`, or a fresh one that changes nothing yet.

    The seed must be set before, as a fresh one is drawn here. Raises `InvalidConfig` for targets or layers
    that the base lacks.
    """
    with hushed():
        # All that is not quantized would become float32; the fast way takes it as it is.
        if config.quantization != "none" and not fast:
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        if config.gradient_checkpointing:
            checkpoint(model)
        if config.init_from is None:
            adapted = get_peft_model(model, peft_config(model, config))
        else:
            start, settings = str(config.init_from), starting_config(config)
            adapted = PeftModel.from_pretrained(model, start, config=settings, is_trainable=True)
    adapted.config.use_cache = False
    return adapted


def checkpoint(model: Model) -> None:
    """Has `model` recompute its activations in the backward pass."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # Without this the first checkpointed block sees inputs that need no gradient, and B stays zero.
    model.enable_input_require_grads()


def load_adapted(base: str, adapter: Path, dtype: str = "auto", quantization: str = "none") -> PeftModel:
    """The base under a saved adapter, in eval mode."""
    with hushed():
        return PeftModel.from_pretrained(load_base(base, dtype, quantization), str(adapter)).eval()
