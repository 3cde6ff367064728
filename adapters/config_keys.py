"""Every key that PEFT's LoraConfig writes and this server does not use: what it may hold, else what to do.

A closed list: a key that is neither here nor used by `peft_config` is refused, because a setting that is
silently dropped is a wrong answer later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adapters.strict_json import show

Accepts = Callable[[Any], bool]

MERGE = "merge the adapter into its base and serve the merged model instead"
PLAIN = "train again with this left at its default, or " + MERGE


def _off(value: Any) -> bool:
    return value is None or value is False


def _empty(value: Any) -> bool:
    return value is None or value == {} or value == []


def _null(value: Any) -> bool:
    return value is None


def _text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _flat(value: Any) -> bool:
    # PEFT writes the base's class here when no task type is set. Nothing is ever imported by it.
    return value is None or (
        isinstance(value, dict) and all(_text(item) or _flag(item) for item in value.values())
    )


# key -> (accepts, what to do when it does not)
INERT_KEYS: dict[str, tuple[Accepts, str]] = {
    # Notes about the training run, without effect on inference.
    "auto_mapping": (_flat, "remove it, it has no effect on serving"),
    "base_model_name_or_path": (_text, "write the base's name as a string"),
    "revision": (_text, "write a string or null"),
    "task_type": (lambda value: value in (None, "CAUSAL_LM"), "train it as CAUSAL_LM"),
    "inference_mode": (_flag, "write true or false"),
    "peft_version": (_text, "write a string or null"),
    "lora_dropout": (_number, "write a number; dropout has no effect on serving"),
    "megatron_core": (_text, "write a string or null"),
    "qalora_group_size": (_number, "write a number; it has no effect unless use_qalora is true"),
    "runtime_config": (_flat, "remove it, it has no effect on serving"),
    # EVA chooses initial A matrices and leaves the base alone, so its settings do not matter afterwards.
    "eva_config": (lambda value: value is None or isinstance(value, dict), "write an object or null"),
    # What would change the served function.
    "bias": (lambda value: value in (None, "none"), "train with bias='none', or " + MERGE),
    "fan_in_fan_out": (_off, "only bases whose linears store (out, in) are served, so train on such a base"),
    "modules_to_save": (_empty, "train without modules_to_save, or " + MERGE),
    "layer_replication": (_empty, MERGE),
    "trainable_token_indices": (_empty, MERGE),
    "target_parameters": (_empty, "target linears with target_modules, or " + MERGE),
    "lora_bias": (_off, PLAIN),
    "use_dora": (_off, "train with use_dora=False, or " + MERGE),
    "use_qalora": (_off, PLAIN),
    "use_bdlora": (_null, PLAIN),
    "alora_invocation_tokens": (_null, "train a plain LoRA; an activated LoRA cannot be merged either"),
    "arrow_config": (_null, "upload the experts of the router as adapters of their own"),
    "velora_config": (_null, PLAIN),
    "kasa_config": (_null, PLAIN),
    "monteclora_config": (_null, PLAIN),
    "megatron_config": (_null, "save the adapter from a model without Megatron layers"),
    "ensure_weight_tying": (_off, PLAIN),
    "modules_to_tie": (_empty, PLAIN),
    "target_modules_to_tie": (_empty, PLAIN),
    # Leftovers of initializations that rewrite the base; init_lora_weights says whether they were used.
    "loftq_config": (_empty, "save with path_initial_model_for_weight_conversion, or " + MERGE),
    "corda_config": (_null, "save with path_initial_model_for_weight_conversion, or " + MERGE),
    "lora_ga_config": (_null, "save with path_initial_model_for_weight_conversion, or " + MERGE),
}


def check_inert_keys(config: dict[str, Any], used: frozenset[str], problems: list[str]) -> None:
    """Appends a problem for each unknown key and for each inert key at a value that matters."""

    for key, value in config.items():
        if key in used:
            continue
        if key not in INERT_KEYS:
            problems.append(
                f"{show(key)} is not a setting this server knows; remove it if it has no effect, else {MERGE}"
            )
            continue
        accepts, remedy = INERT_KEYS[key]
        if not accepts(value):
            problems.append(f"{key} = {show(value)} is not served; {remedy}")
