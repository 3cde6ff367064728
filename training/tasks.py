"""One training run of any task."""

from __future__ import annotations

from training.artifact import TrainResult
from training.config import TrainConfig
from training.preference.config import SFT
from training.progress import Report


def run(config: TrainConfig, report: Report | None = None) -> TrainResult:
    """Trains into `config.output`. Raises what the task's own run raises, all of it a `TrainingError`."""
    # Each task loads libraries of its own, which take seconds.
    if config.task == SFT:
        from training import train

        return train.run(config, report)
    if config.task == "best_of_n":
        from training.preference import best_of

        return best_of.run(config, report)
    from training.preference import run as preference

    return preference.run(config, report)
