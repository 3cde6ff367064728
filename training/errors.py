"""What can go wrong in a training run, as sentences that say what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

MAX_LISTED = 20


class TrainingError(Exception):
    """Root of every error that `training` raises on purpose."""


class InvalidConfig(TrainingError):
    """The run's settings are wrong; `problems` holds one sentence per mistake."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(_listed("the training config needs changes", self.problems))


class InvalidData(TrainingError):
    """A data file is wrong; `problems` holds one sentence per mistake, each with its line number."""

    def __init__(self, path: Path, problems: Sequence[str]) -> None:
        self.path = path
        self.problems = tuple(problems)
        super().__init__(_listed(f"{path} cannot be used", self.problems))


class InvalidBase(TrainingError):
    """The base model or its tokenizer cannot be loaded or is of no use for training."""


class Diverged(TrainingError):
    """The run produced no usable adapter: its loss became NaN or its weights never moved."""


class Interrupted(TrainingError):
    """The run was asked to stop and has left a checkpoint; running it again goes on from there."""


class UnservableAdapter(TrainingError):
    """The finished adapter is one that the server would refuse."""


def _listed(what: str, problems: Sequence[str]) -> str:
    shown = "".join(f"\n  {problem}" for problem in problems[:MAX_LISTED])
    more = len(problems) - MAX_LISTED
    return f"{what}:{shown}" + (f"\n  and {more} more" if more > 0 else "")
