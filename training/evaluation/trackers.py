"""TensorBoard and Weights & Biases, through the callbacks that transformers keeps for them."""

from __future__ import annotations

from pathlib import Path

from transformers import TrainerCallback

from training.evaluation.config import EvaluationConfig

TENSORBOARD_FOLDER = "tensorboard"


def tracker_callbacks(evaluation: EvaluationConfig, folder: Path) -> list[TrainerCallback]:
    """Those of `evaluation.report_to`; TensorBoard's events go to a folder of their own in `folder`."""
    return [_MAKERS[name](folder) for name in evaluation.report_to or ()]


def _tensorboard(folder: Path) -> TrainerCallback:
    from transformers.integrations import TensorBoardCallback

    callback = TensorBoardCallback()
    callback.logging_dir = str(folder / TENSORBOARD_FOLDER)
    return callback


def _wandb(folder: Path) -> TrainerCallback:
    from transformers.integrations import WandbCallback

    return WandbCallback()


_MAKERS = {"tensorboard": _tensorboard, "wandb": _wandb}
