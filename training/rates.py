"""The learning rate of a run that names none, from the family and the width of its base.

    5e-5 * 10 * (2000 / width) ** exponent

Ten times what training every weight would take, whatever the rank; how it falls with the width was fitted for
two families. It is a start: a sweep over a held-out loss finds a better one.
"""

from __future__ import annotations

from dataclasses import replace

from training.base import read_base
from training.config import TrainConfig
from training.methods.table import METHODS

FULL_RATE = 5e-5
LORA_FACTOR = 10.0
REFERENCE_WIDTH = 2000
EXPONENTS = {"llama": 0.781, "qwen2": 0.0775, "qwen3": 0.0775}


def formula_rate(family: str, width: int, *, full: bool = False) -> float:
    """Peak rate for a base of `family` (its model_type) and hidden size `width`; `full` trains every weight.

    A family without a fit takes the lower of those that there are.
    """
    scale = REFERENCE_WIDTH / width
    exponents = [EXPONENTS[family]] if family in EXPONENTS else list(EXPONENTS.values())
    rate = FULL_RATE * min(scale**exponent for exponent in exponents)
    return float(f"{rate * (1 if full else LORA_FACTOR):.2g}")


def base_rate(config: TrainConfig) -> float:
    """The formula's rate for the run's base. Raises `InvalidBase`."""
    text = read_base(config.base).get_text_config()
    full = METHODS[config.method].makes_model
    return formula_rate(str(text.model_type), int(text.hidden_size), full=full)


def with_rate(config: TrainConfig) -> TrainConfig:
    """`config` with a learning rate: its own, or the formula's. Raises `InvalidBase`."""
    if config.optim.learning_rate is not None:
        return config
    return replace(config, optim=replace(config.optim, learning_rate=base_rate(config)))
