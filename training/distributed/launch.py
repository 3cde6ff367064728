"""Starts the processes of one run on this machine, by accelerate's launcher and a config that ships here."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.errors import TrainingError

CONFIGS = Path(__file__).parent / "configs"
SHARDINGS = tuple(sorted(path.stem for path in CONFIGS.glob("*.yaml")))

_AGAIN = "run the same command again to go on from the last checkpoint, if checkpoint_every had one written"


class ProcessLost(TrainingError):
    """A process of the run ended before its time."""


def launch(sharding: str, num_processes: int, module: str, arguments: Sequence[str]) -> None:
    """Runs `python -m module arguments` in every process; returns once all have ended well.

    Raises `ProcessLost`, after the others have been ended, naming the first that failed.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = ["--config_file", str(CONFIGS / f"{sharding}.yaml"), "--num_processes", str(num_processes)]
    options += ["--module", module, *arguments]
    try:
        launch_command(launch_command_parser().parse_args(options))
    except ChildFailedError as error:
        raise ProcessLost(_sentence(error)) from error
    except SignalException as error:
        raise ProcessLost(f"stopped by {error.sigval.name}; {_AGAIN}") from error


def _sentence(error: Any) -> str:
    rank, failure = error.get_first_failure()
    # Those who were waiting for one that was killed fail too, and may be noticed first; SIGTERM is ours.
    ended = -signal.SIGTERM
    killed = [each for each in error.failures.items() if each[1].exitcode < 0 and each[1].exitcode != ended]
    if killed:
        rank, failure = killed[0]
        return f"process {rank} was ended by {failure.signal_name()}, and the others with it; {_AGAIN}"
    return f"process {rank} failed with exit code {failure.exitcode}; what it said is above"
