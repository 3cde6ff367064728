"""The tasks that learn from preferences or rewards, and the settings that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.option import option


@dataclass(frozen=True, slots=True)
class Task:
    """What a task learns, what its rows hold, and the class of TRL that does it.

    `rate` is the learning rate of a run that names none: ten times TRL's own, which is for whole models.
    """

    summary: str
    rows: tuple[str, ...]
    trainer: str
    rate: float | None = None
    samples: bool = False


SFT = "sft"
PAIRS = ("prompt", "chosen", "rejected")
TASKS: dict[str, Task] = {
    "dpo": Task("prefers one answer to another", PAIRS, "DPOTrainer", 1e-5),
    "kto": Task("likes answers or dislikes them", ("prompt", "completion", "label"), "KTOTrainer", 1e-5),
    "reward": Task("scores answers", PAIRS, "RewardTrainer", 1e-3),
    "grpo": Task("earns more than its group", ("prompt",), "GRPOTrainer", 1e-5, samples=True),
    "rloo": Task("earns more than the others", ("prompt",), "RLOOTrainer", 1e-5, samples=True),
    "best_of_n": Task("imitates its best answers", ("prompt",), "none", samples=True),
}
# Whose rows, and those held out, have answers to be imitated.
IMITATING = (SFT, "best_of_n")
REFUSED_TASKS: dict[str, str] = {
    "ppo": (
        "PPO has left TRL, and its critic costs a second model; use grpo or rloo with the same scorer, "
        "or dpo on pairs"
    ),
}


def scorer_told(preference: Mapping[str, Any]) -> str:
    """What scored answers, of a section as stories keep it, on one line; empty where nothing did."""
    name = str(preference["scorer"] or preference["reward_model"] or "")
    return name if name.isprintable() else repr(name)


@dataclass(frozen=True, slots=True)
class PreferenceSection:
    """How preferences and rewards are turned into an adapter."""

    beta: float | None = option(
        "how firmly the start is held to; TRL's own for the task when left out", None, least=0
    )
    scorer: str | None = option(
        "what scores an answer: exact (the row's answer), regex:PATTERN, length:CHARACTERS, or "
        "module:function called with prompt, completion and row",
        None,
    )
    reward_model: Path | None = option("folder of an adapter by task reward, in place of a scorer", None)
    num_generations: int = option("answers sampled for each prompt", 8, least=2)
    max_completion_length: int = option("longest sampled answer in tokens", 256, least=1)
    temperature: float = option("how freely answers are sampled", 1.0, least=0.01)
