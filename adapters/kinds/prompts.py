"""Kinds that put virtual tokens before every prompt. PEFT saves what its encoders made, not the encoders."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.config_keys import NOTES, Keys, is_empty, is_flag, is_number, is_text
from adapters.config_reader import Reader
from adapters.kinds.kind import Kind, Options, Shape, count_option
from adapters.shapes import BaseShapes, Claim, Site

PROMPT = "prompt_embeddings"
MAX_VIRTUAL_TOKENS = 65536
_SIZES: Keys = {
    # The tensor's shape says it all; what PEFT noted of the base is checked against the base by that.
    name: (is_number, "write a number or null")
    for name in ("token_dim", "num_attention_heads", "num_layers")
}
_COMMON: Keys = {
    **NOTES,
    **_SIZES,
    "num_transformer_submodules": (
        lambda value: value in (None, 1),
        "train it on a model with a decoder only",
    ),
    "modules_to_save": (is_empty, "train without modules_to_save"),
}
_ENCODER: Keys = {
    "encoder_hidden_size": (is_number, "write a number or null"),
    "encoder_num_layers": (is_number, "write a number or null"),
    "encoder_dropout": (is_number, "write a number or null"),
    "encoder_reparameterization_type": (is_text, "write a string or null"),
}
_TEXTS: Keys = {
    "prompt_tuning_init": (is_text, "write a string or null"),
    "prompt_tuning_init_text": (is_text, "write a string or null"),
    "tokenizer_name_or_path": (is_text, "write a string or null"),
    "tokenizer_kwargs": (lambda value: value is None or isinstance(value, dict), "write an object or null"),
}
_PREFIX: Keys = {
    "encoder_hidden_size": (is_number, "write a number or null"),
    "prefix_projection": (is_flag, "write true or false"),
    "init_weights": (lambda value: is_flag(value) or is_text(value), "write a flag, a string or null"),
}


def _embedding_claims(sites: Sequence[Site], options: Options, base: BaseShapes) -> dict[str, Claim]:
    return {PROMPT: _claim((options["num_virtual_tokens"], base.hidden_size))}


def _cache_claims(sites: Sequence[Site], options: Options, base: BaseShapes) -> dict[str, Claim]:
    width = base.num_layers * 2 * base.num_kv_heads * base.head_dim
    return {PROMPT: _claim((options["num_virtual_tokens"], width))}


def _claim(shape: Shape) -> Claim:
    return Claim("", PROMPT, shape)


def _check_prompt(reader: Reader, options: Options) -> None:
    if reader.config.get("num_virtual_tokens") is None:
        reader.problems.append("num_virtual_tokens is missing")
    if reader.config.get("task_type") is None:
        # PEFT loads it all the same, and puts the virtual tokens nowhere.
        reader.problems.append("task_type is missing; train it as CAUSAL_LM")


def _prompt_kind(name: str, inert: Keys, fills_cache: bool = False) -> Kind:
    return Kind(
        name,
        used=(),
        inert={**_COMMON, **inert},
        options={"num_virtual_tokens": count_option(1, 1, MAX_VIRTUAL_TOKENS)},
        places="none",
        claims=_cache_claims if fills_cache else _embedding_claims,
        check=_check_prompt,
        direct=True,
        fills_cache=fills_cache,
    )


PROMPT_TUNING = _prompt_kind("prompt_tuning", _TEXTS)
P_TUNING = _prompt_kind("p_tuning", _ENCODER)
PREFIX_TUNING = _prompt_kind("prefix_tuning", _PREFIX, fills_cache=True)
CARTRIDGE = _prompt_kind("cartridge", {"num_frozen_tokens": (is_number, "write a number")}, fills_cache=True)
