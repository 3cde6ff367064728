"""LoRA with all that PEFT hangs on it (rsLoRA, patterns, biases, DoRA), and AdaLoRA.

y = W x + scale * B (A x) + scale * bias_B;   DoRA: y = m / ||W + scale B A||_row * (W x + scale * B (A x))
"""

from __future__ import annotations

import math
from typing import Any

from adapters.config_keys import LORA_KEYS, MERGE, is_flag, is_off, number_keys
from adapters.config_reader import MAX_NAMES, Reader
from adapters.kinds.kind import LAYERED, PATTERNS, Kind, Option, Options, Shape, count_option, flag_option
from adapters.shapes import EMBEDDING, Site, Target
from adapters.strict_json import show

_CONVERT = (
    "it was initialized from the base's weights, so its A and B fit only the rewritten base; save it with "
    f"PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=...), or {MERGE}"
)
EXTRAS = ("bias", "modules_to_save", "trainable_token_indices", "ensure_weight_tying")
_LOFTQ = (
    "LoftQ rewrote the base that it was trained on, and PEFT has no conversion; start with peft's "
    f"replace_lora_weights_loftq, which leaves the base alone, or {MERGE}"
)
# Initializations that leave the base as it is, so that A and B mean what they say.
_INITS = ("gaussian", "orthogonal", "eva", "mica")
# PEFT adds it before it divides by a rank that it keeps as a number.
_ADALORA_EPSILON = 1e-5


def _lora_parts(site: Site, options: Options) -> dict[str, Shape]:
    rank, out, width = site.target.rank, site.out_features, site.in_features
    if site.name == EMBEDDING:
        # A table of [vocab, hidden] is looked up, not multiplied.
        shapes: dict[str, Shape] = {"lora_embedding_A": (rank, out), "lora_embedding_B": (width, rank)}
        magnitude = width
    else:
        shapes = {"lora_A.weight": (rank, width), "lora_B.weight": (out, rank)}
        magnitude = out
        if options["lora_bias"]:
            shapes["lora_B.bias"] = (out,)
    if options["use_dora"]:
        shapes["lora_magnitude_vector"] = (magnitude,)
    return shapes


def _lora_scale(rank: int, alpha: float, options: Options) -> float:
    return alpha / (math.sqrt(rank) if options["use_rslora"] else rank)


def _check_lora(reader: Reader, options: Options) -> None:
    value = reader.config.get("init_lora_weights", True)
    # Compared by identity: 1 == True, and PEFT writes neither 1 nor 0.
    if not any(value is flag for flag in (None, True, False)) and value not in _INITS:
        remedy = _LOFTQ if value == "loftq" else _CONVERT
        reader.problems.append(f"init_lora_weights = {show(value)} is not served: {remedy}")
    if options["use_dora"] and options["lora_bias"]:
        reader.problems.append("use_dora and lora_bias exclude each other in PEFT; train with one of them")


LORA = Kind(
    "lora",
    used=(*LAYERED, *PATTERNS, *EXTRAS, "init_lora_weights"),
    inert=LORA_KEYS,
    options={"use_rslora": flag_option(), "use_dora": flag_option(), "lora_bias": flag_option()},
    places="linears and tables",
    rank_key="r",
    alpha_key="lora_alpha",
    parts=_lora_parts,
    scale=_lora_scale,
    check=_check_lora,
    served_rank=True,
    direct=True,
)


def _is_masks(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MAX_NAMES
        and all(
            isinstance(mask, list) and all(isinstance(kept, bool) for kept in mask) for mask in value.values()
        )
    )


def _adalora_parts(site: Site, options: Options) -> dict[str, Shape]:
    rank = site.target.rank
    shapes: dict[str, Shape] = {"lora_A": (rank, site.in_features), "lora_B": (site.out_features, rank)}
    return {**shapes, "lora_E": (rank, 1)}


def _adalora_scale(rank: int, alpha: float, options: Options) -> float:
    # The rank of the start, whatever is left of it after pruning.
    start: int = options["init_r"]
    return alpha / (start + _ADALORA_EPSILON)


def _adalora_target(name: str, target: Target, options: Options) -> Target:
    mask = (options["rank_pattern"] or {}).get(f"{name}.lora_E")
    return target if mask is None else Target(sum(mask), target.scale)


def _check_adalora(reader: Reader, options: Options) -> None:
    for name, mask in options["rank_pattern"].items():
        if len(mask) != options["init_r"]:
            reader.problems.append(
                f"rank_pattern[{show(name)}] holds {len(mask)} flags; init_r = {options['init_r']} are needed"
            )


ADALORA = Kind(
    "adalora",
    used=(*LAYERED, *EXTRAS),
    inert={
        **LORA_KEYS,
        **number_keys("r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2"),
        **number_keys("orth_reg_weight", "total_step"),
        "init_lora_weights": (is_flag, "write true or false"),
        "alpha_pattern": (lambda value: not value, "AdaLoRA has one alpha; " + MERGE),
        "use_rslora": (is_off, "AdaLoRA has its own scale; train without it"),
        "use_dora": (is_off, "AdaLoRA has no magnitude; train without it"),
        "lora_bias": (is_off, "AdaLoRA has no such bias; train without it"),
    },
    options={
        "init_r": count_option(12),
        "rank_pattern": Option(
            _is_masks, {}, "write what PEFT wrote: a list of true and false for each name"
        ),
    },
    places="linears",
    rank_key="init_r",
    alpha_key="lora_alpha",
    parts=_adalora_parts,
    scale=_adalora_scale,
    target=_adalora_target,
    check=_check_adalora,
    served_rank=True,
    direct=True,
    may_be_empty=True,
)
