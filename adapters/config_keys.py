"""Every key that PEFT writes and this server does not use: what it may hold, else what to do.

Closed lists: a key that is neither in its kind's list nor used by it is refused, because a setting that is
silently dropped is a wrong answer later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from adapters.strict_json import show

Accepts = Callable[[Any], bool]
# key -> (accepts, what to do when it does not)
Keys = Mapping[str, tuple[Accepts, str]]

MERGE = "merge the adapter into its base and serve the merged model instead"
PLAIN = "train again with this left at its default, or " + MERGE
CONVERT = "save with path_initial_model_for_weight_conversion, or " + MERGE


def is_off(value: Any) -> bool:
    return value is None or value is False


def is_empty(value: Any) -> bool:
    return value is None or value == {} or value == []


def is_null(value: Any) -> bool:
    return value is None


def is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def is_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def is_flat(value: Any) -> bool:
    # PEFT writes the base's class here when no task type is set. Nothing is ever imported by it.
    return value is None or (
        isinstance(value, dict) and all(is_text(item) or is_flag(item) for item in value.values())
    )


def is_numbers_by_name(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(is_number(item) for item in value.values()))


# Notes about the training run, without effect on inference; every kind has them.
NOTES: Keys = {
    "auto_mapping": (is_flat, "remove it, it has no effect on serving"),
    "base_model_name_or_path": (is_text, "write the base's name as a string"),
    "revision": (is_text, "write a string or null"),
    "task_type": (lambda value: value in (None, "CAUSAL_LM"), "train it as CAUSAL_LM"),
    "inference_mode": (is_flag, "write true or false"),
    "peft_version": (is_text, "write a string or null"),
}
FAN_IN: Keys = {
    "fan_in_fan_out": (
        is_off,
        "only bases whose linears store (out, in) are served, so train on such a base",
    ),
}
# PEFT's own initialization, which the saved tensors have replaced.
INIT: Keys = {"init_weights": (is_flag, "write true or false")}


def number_keys(*names: str) -> Keys:
    """Numbers that mattered while training and no longer do, such as a dropout."""
    return {name: (is_number, "write a number; it has no effect on serving") for name in names}


# LoRA and AdaLoRA share one configuration class.
LORA_KEYS: Keys = {
    **NOTES,
    **FAN_IN,
    **number_keys("lora_dropout"),
    "megatron_core": (is_text, "write a string or null"),
    "qalora_group_size": (is_number, "write a number; it has no effect unless use_qalora is true"),
    "runtime_config": (is_flat, "remove it, it has no effect on serving"),
    # EVA chooses initial A matrices and leaves the base alone, so its settings do not matter afterwards.
    "eva_config": (lambda value: value is None or isinstance(value, dict), "write an object or null"),
    # What would change the served function.
    "layer_replication": (is_empty, MERGE),
    "target_parameters": (is_empty, "target linears with target_modules, or " + MERGE),
    "use_qalora": (is_off, PLAIN),
    "use_bdlora": (is_null, PLAIN),
    "alora_invocation_tokens": (is_null, "train a plain LoRA; an activated LoRA cannot be merged either"),
    "arrow_config": (is_null, "upload the experts of the router as adapters of their own"),
    "velora_config": (is_null, PLAIN),
    "kasa_config": (is_null, PLAIN),
    "monteclora_config": (is_null, PLAIN),
    "megatron_config": (is_null, "save the adapter from a model without Megatron layers"),
    "modules_to_tie": (is_empty, PLAIN),
    "target_modules_to_tie": (is_empty, PLAIN),
    # Leftovers of initializations that rewrite the base; init_lora_weights says whether they were used.
    "loftq_config": (
        is_empty,
        "start with replace_lora_weights_loftq, which leaves the base alone, or " + MERGE,
    ),
    "corda_config": (is_null, CONVERT),
    "lora_ga_config": (is_null, CONVERT),
}


def check_inert_keys(config: dict[str, Any], used: frozenset[str], inert: Keys, problems: list[str]) -> None:
    """Appends a problem for each unknown key and for each inert key at a value that matters."""
    for key, value in config.items():
        if key in used:
            continue
        if key not in inert:
            problems.append(
                f"{show(key)} is not a setting this server knows; remove it if it has no effect, else {MERGE}"
            )
            continue
        accepts, remedy = inert[key]
        if not accepts(value):
            problems.append(f"{key} = {show(value)} is not served; {remedy}")
