"""Makes a config say all that its method stands for, and finds what contradicts it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from training.config import ALL_LINEAR, MAX_RANK
from training.errors import InvalidConfig
from training.methods.method import CONVERTED, PROMPTS, Method
from training.methods.table import METHODS
from training.option import is_default, value_of, with_value

if TYPE_CHECKING:
    from training.config import TrainConfig


def settled(config: TrainConfig) -> TrainConfig:
    """`config` with its method's own values filled in. Raises `InvalidConfig` for values against them.

    Settling twice changes nothing. A method that is no method stays as it is.
    """
    method = METHODS.get(config.method)
    if method is None:
        return config
    problems = list(_contradictions(config, method))
    if problems:
        raise InvalidConfig(problems)
    for name, value in {**method.suggested, **method.fixed}.items():
        if is_default(config, name):
            config = with_value(config, name, value)
    return config


def method_problems(config: TrainConfig) -> Iterator[str]:
    """What a settled config asks for that its method cannot do."""
    method = METHODS.get(config.method)
    if method is not None:
        yield from _shape_problems(config, method)
        yield from _init_problems(config)
        yield from _optim_problems(config, method)
        yield from _keep_problems(config, method)
        yield from _start_problems(config, method)


def _contradictions(config: TrainConfig, method: Method) -> Iterator[str]:
    for name, value in method.fixed.items():
        if not is_default(config, name) and value_of(config, name) != value:
            yield (
                f"{name} = {value_of(config, name)!r} contradicts method {config.method}, which stands for "
                f"{value!r}: leave one of them out"
            )


def _shape_problems(config: TrainConfig, method: Method) -> Iterator[str]:
    lora = config.lora
    if ALL_LINEAR in lora.targets and len(lora.targets) > 1:
        yield f"lora.targets: {ALL_LINEAR} names every linear already: leave the others out"
    if not lora.alpha:
        yield "lora.alpha = 0 scales the adapter to nothing: give more, such as twice the rank"
    if config.prompt.text == "":
        yield "prompt.text has no words to start from: leave it out"
    if method.last_layers_only and lora.layers_to_transform is not None:
        yield f"lora.layers_to_transform and method {config.method} both choose layers: keep one"


def _init_problems(config: TrainConfig) -> Iterator[str]:
    lora = config.lora
    if lora.init == "loftq" and config.quantization != "nf4":
        yield "lora.init = loftq starts from what nf4 loses: set quantization = nf4"
    if lora.init not in CONVERTED:
        return
    if config.quantization != "none":
        yield (
            f"lora.init = {lora.init} takes its start out of the base, which {config.quantization} would "
            "round anew: use loftq, or quantization = none"
        )
    if lora.dora:
        yield f"lora.init = {lora.init} cannot be converted back under DoRA: keep one of the two"
    if lora.rslora and (lora.rank_pattern or lora.alpha_pattern):
        yield f"lora.init = {lora.init} cannot be converted back with lora.rslora and a pattern: keep one"
    if 2 * lora.rank > MAX_RANK:
        yield f"lora.init = {lora.init} is saved with twice lora.rank, of which {MAX_RANK} is the most"


def _optim_problems(config: TrainConfig, method: Method) -> Iterator[str]:
    optim, course = config.optim, config.adalora
    if optim.lora_plus_ratio is not None and method.family != "lora":
        yield f"optim.lora_plus_ratio tells B from A: method {config.method} has neither"
    if (optim.unfreeze_groups is None) is not (optim.unfreeze_every is None):
        yield "optim.unfreeze_groups and optim.unfreeze_every go together: give both"
    if optim.unfreeze_groups is not None and method.family in (*PROMPTS, "adalora"):
        yield f"optim.unfreeze_groups unfreezes layers one after another: method {config.method} cannot"
    if config.gradient_checkpointing and method.family == "prefix_tuning":
        yield "gradient_checkpointing drops the cache that prefix tuning writes: leave one of them out"
    if (course.start_rank or config.lora.rank) < config.lora.rank:
        yield "adalora.start_rank is pruned down to lora.rank: it must be at least that"
    if course.warmup + course.final >= 1:
        yield "adalora.warmup and adalora.final are shares of the steps that leave some between them"


def _keep_problems(config: TrainConfig, method: Method) -> Iterator[str]:
    keep = config.keep
    if (keep.ewc or keep.replay) and keep.rows is None:
        yield "keep.ewc and keep.replay need old rows: name their JSONL file in keep.rows"
    if keep.rows is not None and not (keep.ewc or keep.replay):
        yield "keep.rows alone does nothing: set keep.replay, keep.ewc or both"
    if keep.replay >= 1:
        yield "keep.replay is a share below 1"
    if keep.ewc and config.init_from is None and not method.makes_model:
        yield "keep.ewc guards what an adapter has learned: name it in init_from"


def _start_problems(config: TrainConfig, method: Method) -> Iterator[str]:
    if config.init_from is None:
        return
    if method.makes_model:
        yield f"init_from names an adapter: for method {config.method} name the model's folder as base"
    if method.family == "p_tuning":
        yield "init_from: p-tuning saves its tokens and not their encoder: start afresh"
    if method.last_layers_only and not method.makes_model:
        yield f"init_from keeps the layers that it has: use method lora instead of {config.method}"
    if method.family == "adalora":
        yield "init_from: AdaLoRA has pruned its ranks for good and cannot begin again: use another method"
    if config.lora.init != "default":
        yield f"init_from and lora.init = {config.lora.init} are two starts: keep one"
