"""PEFT's configuration of each family, with everything written out that PEFT would choose by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from peft import (
    AdaLoraConfig,
    EvaConfig,
    IA3Config,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VeraConfig,
)

from training.config import LoraSection, TrainConfig
from training.errors import InvalidConfig
from training.methods.method import CONVERTED, PROMPTS
from training.methods.table import METHODS
from training.methods.targets import (
    check_directions,
    check_patterns,
    chosen_layers,
    resolve_targets,
)

_CAUSAL = "CAUSAL_LM"
# The one linear of a layer whose input IA3 scales instead of its output, by the name all families give it.
_FEEDFORWARD = "down_proj"
# Starts that PEFT makes itself; LoftQ's is made here, over the base as it is quantized.
_OWN_STARTS = ("pissa", "olora", "eva")


def peft_config(model: Any, config: TrainConfig) -> PeftConfig:
    """What PEFT is told to lay over `model`. Raises `InvalidConfig` for targets or layers the base lacks."""
    family = METHODS[config.method].family
    positions = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0))
    if family in PROMPTS and 0 < positions <= config.prompt.tokens:
        raise InvalidConfig([f"prompt.tokens: the base has {positions} positions in all, lower it"])
    return FAMILIES[family](model, config)


def lora_config(model: Any, lora: LoraSection, layers: tuple[int, ...] | None = None) -> LoraConfig:
    """PEFT's config with its targets written out: left to itself, PEFT picks q_proj and v_proj only."""
    layers = layers or lora.layers_to_transform
    check_patterns(model, lora)
    if lora.init in (*CONVERTED, "loftq"):
        check_directions(model, lora)
    return LoraConfig(
        task_type=_CAUSAL,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        init_lora_weights=lora.init if lora.init in _OWN_STARTS else True,
        eva_config=EvaConfig(rho=lora.eva_rho) if lora.init == "eva" else None,
        target_modules=list(resolve_targets(model, lora.targets)),
        rank_pattern=dict(lora.rank_pattern or {}),
        alpha_pattern=dict(lora.alpha_pattern or {}),
        layers_to_transform=list(layers) if layers is not None else None,
    )


def _lora(model: Any, config: TrainConfig) -> LoraConfig:
    return lora_config(model, config.lora, chosen_layers(model, config))


def _adalora(model: Any, config: TrainConfig) -> AdaLoraConfig:
    lora, course = config.lora, config.adalora
    return AdaLoraConfig(
        task_type=_CAUSAL,
        target_r=lora.rank,
        init_r=course.start_rank or math.ceil(1.5 * lora.rank),
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        deltaT=course.prune_every,
        # PEFT adds its term to every forward pass, of which one step has several.
        orth_reg_weight=0.5 / config.optim.accumulation,
        # A stand-in: the number of steps is known once the trainer has counted them.
        total_step=1,
        **_places(model, config),
    )


def _vera(model: Any, config: TrainConfig) -> VeraConfig:
    lora = config.lora
    # The shared pairs are saved: a seed alone draws others on another machine.
    return VeraConfig(
        task_type=_CAUSAL,
        r=lora.rank,
        vera_dropout=lora.dropout,
        projection_prng_key=config.seed,
        save_projection=True,
        **_places(model, config),
    )


def _ia3(model: Any, config: TrainConfig) -> IA3Config:
    targets = resolve_targets(model, config.lora.targets)
    return IA3Config(
        task_type=_CAUSAL,
        target_modules=list(targets),
        feedforward_modules=[name for name in targets if name == _FEEDFORWARD],
    )


def _prompt_tuning(model: Any, config: TrainConfig) -> PromptTuningConfig:
    prompt = config.prompt
    return PromptTuningConfig(
        task_type=_CAUSAL,
        num_virtual_tokens=prompt.tokens,
        prompt_tuning_init="TEXT" if prompt.text else "RANDOM",
        prompt_tuning_init_text=prompt.text,
        tokenizer_name_or_path=config.base if prompt.text else None,
    )


def _prefix_tuning(model: Any, config: TrainConfig) -> PrefixTuningConfig:
    return PrefixTuningConfig(task_type=_CAUSAL, num_virtual_tokens=config.prompt.tokens)


def _p_tuning(model: Any, config: TrainConfig) -> PromptEncoderConfig:
    prompt = config.prompt
    return PromptEncoderConfig(
        task_type=_CAUSAL, num_virtual_tokens=prompt.tokens, encoder_hidden_size=prompt.hidden
    )


def _places(model: Any, config: TrainConfig) -> dict[str, Any]:
    layers = chosen_layers(model, config)
    return {
        "target_modules": list(resolve_targets(model, config.lora.targets)),
        "layers_to_transform": list(layers) if layers is not None else None,
    }


FAMILIES: dict[str, Callable[[Any, TrainConfig], PeftConfig]] = {
    "lora": _lora,
    "adalora": _adalora,
    "vera": _vera,
    "ia3": _ia3,
    "prompt_tuning": _prompt_tuning,
    "prefix_tuning": _prefix_tuning,
    "p_tuning": _p_tuning,
}
