"""What the front knows of the base model, read from its small files without torch."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers.utils.hub import cached_file

from server.model.config import FAMILIES, ModelConfig, UnsupportedModel

log = logging.getLogger(__name__)

# transformers' own configuration classes import torch, which the front must not; these are the defaults
# they would fill in, and a test compares the outcome with theirs.
_DEFAULTS: dict[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_FAMILY_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"vocab_size": 32000, "intermediate_size": 11008, "max_position_embeddings": 2048},
    "mistral": {
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
    "qwen2": {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "use_sliding_window": False,
    },
    "qwen3": {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "use_sliding_window": False,
    },
}


class UnreadableBase(Exception):
    """The base's folder or repository lacks a file, or holds a broken one; the text says which."""


@dataclass(frozen=True)
class Base:
    """The base model as the front sees it."""

    name: str
    model: ModelConfig
    # End-of-sequence tokens that the model's own files name, the tokenizer's not included.
    eos_token_ids: frozenset[int]


def read_base(base: str) -> Base:
    """Reads a local folder or a hub repository; raises UnreadableBase or UnsupportedModel."""
    config = _read_json(base, "config.json")
    if config is None:
        raise UnreadableBase(f"{base} has no config.json.")
    generation = _read_json(base, "generation_config.json") or {}
    eos = generation.get("eos_token_id", config.get("eos_token_id"))
    return Base(name=_name(base), model=_model_config(base, config), eos_token_ids=_ids(eos))


def _name(base: str) -> str:
    """A hub id as it is, of a folder only its last part: clients have no business with the server's paths."""
    return Path(base).resolve().name if Path(base).is_dir() else base


def _read_json(base: str, file: str) -> dict[str, Any] | None:
    try:
        path = cached_file(base, file, _raise_exceptions_for_missing_entries=False)
        found = None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableBase(f"{file} of {base} cannot be read ({error}).") from error
    if found is not None and not isinstance(found, dict):
        raise UnreadableBase(f"{file} of {base} is no JSON object.")
    return found


def _model_config(base: str, config: dict[str, Any]) -> ModelConfig:
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise UnsupportedModel(
            f"model_type {family!r} of {base} is not supported; supported are {', '.join(sorted(FAMILIES))}"
        )
    given = {**_DEFAULTS, **_FAMILY_DEFAULTS[family], **config}
    return ModelConfig.from_hf(SimpleNamespace(**given))


def _ids(eos: Any) -> frozenset[int]:
    if eos is None:
        return frozenset()
    return frozenset(eos if isinstance(eos, list) else [eos])
