"""Loads a base for training and lays a fresh adapter over it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerBase

from training.config import ALL_LINEAR, LoraSection, TrainConfig
from training.errors import InvalidBase, InvalidConfig

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


def load_base(base: str, dtype: str = "auto", quantization: str = "none") -> Model:
    """The base in eval mode, on the first GPU if there is one. Raises `InvalidBase`."""
    kind = resolve_dtype(dtype)
    options: dict[str, Any] = {"dtype": kind}
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=kind,
        )
    if torch.cuda.is_available():
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


def adapt(model: Model, config: TrainConfig) -> PeftModel:
    """`model` with a fresh adapter, which changes nothing yet: every B is zero.

    The seed must be set before, as A is drawn here. Raises `InvalidConfig` for targets the base lacks.
    """
    _check_layers(model, config.lora)
    with _renamed_checkpointing():
        if config.quantization == "nf4":
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            # Without this the first checkpointed block sees inputs that need no gradient, and B stays zero.
            model.enable_input_require_grads()
        adapted = get_peft_model(model, lora_config(model, config.lora))
    adapted.config.use_cache = False
    return adapted


def lora_config(model: Model, lora: LoraSection) -> LoraConfig:
    """PEFT's config with its targets written out: left to itself, PEFT picks q_proj and v_proj only."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        target_modules=list(resolve_targets(model, lora.targets)),
        rank_pattern=dict(lora.rank_pattern or {}),
        alpha_pattern=dict(lora.alpha_pattern or {}),
        layers_to_transform=list(lora.layers_to_transform) if lora.layers_to_transform is not None else None,
    )


def resolve_targets(model: Model, targets: tuple[str, ...]) -> tuple[str, ...]:
    """The linears' own names, sorted. Raises `InvalidConfig` for a name that no linear has."""
    linears = _linear_names(model)
    if targets == (ALL_LINEAR,):
        return tuple(sorted(linears))
    unknown = [name for name in targets if name not in linears]
    if unknown:
        raise InvalidConfig(
            [
                f"lora.targets: the base has no linear {name}; it has {', '.join(sorted(linears))}"
                for name in unknown
            ]
        )
    return tuple(sorted(targets))


def _linear_names(model: Model) -> set[str]:
    """Last names of every linear but the output head, quantized ones included."""
    head = model.get_output_embeddings()
    return {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


def _check_layers(model: Model, lora: LoraSection) -> None:
    count = int(model.config.get_text_config().num_hidden_layers)
    wrong = [index for index in lora.layers_to_transform or () if not 0 <= index < count]
    if wrong:
        raise InvalidConfig([f"lora.layers_to_transform: the base has layers 0 to {count - 1}, not {wrong}"])


def load_adapted(base: str, adapter: Path, dtype: str = "auto", quantization: str = "none") -> PeftModel:
    """The base under a saved adapter, in eval mode."""
    with _renamed_checkpointing():
        return PeftModel.from_pretrained(load_base(base, dtype, quantization), str(adapter)).eval()


@contextmanager
def _renamed_checkpointing() -> Iterator[None]:
    """Hushes one warning: transformers 5.23 renamed what PEFT still asks for by its old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*gradient_checkpointing.*deprecated", category=FutureWarning
        )
        yield
