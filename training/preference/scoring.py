"""The scorer that a run names."""

from __future__ import annotations

from collections.abc import Sequence

from training.config import TrainConfig
from training.preference.reward import load_reward
from training.preference.rows import Record
from training.preference.scorers import Scorer, rule_scorer


def make_scorer(config: TrainConfig, records: Sequence[Record]) -> Scorer:
    """A reward model, or a rule that can score `records`. Raises `InvalidConfig`, `InvalidBase`."""
    folder = config.preference.reward_model
    return load_reward(folder) if folder else rule_scorer(config, records)
