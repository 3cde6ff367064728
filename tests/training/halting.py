"""Runs that are stopped in the middle: by a signal to their process, or by a listener within."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training import callbacks
from training.config import TrainConfig
from training.configfile import dump_config
from training.progress import Progress
from training.stopping import Stop

WEIGHTS = "adapter_model.safetensors"
# The command itself, whose bars wait in the third step until they are told to go on.
_HALTING = """
import sys
from contextlib import contextmanager
from lorikeet.cli.main import main
from training import progress

def halt(seen):
    if seen.step == 3:
        print("halted", flush=True)
        sys.stdin.readline()

@contextmanager
def bars(console):
    yield halt

progress.bars = bars
sys.exit(main(["train", sys.argv[1]]))
"""


def halted(config: TrainConfig, folder: Path) -> subprocess.Popen[str]:
    """The run as a process of its own, in its third step until it reads a line."""
    (folder / "run.toml").write_text(dump_config(config))
    process = subprocess.Popen(
        [sys.executable, "-c", _HALTING, str(folder / "run.toml")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "halted\n"
    return process


def place_of(config: TrainConfig) -> Path:
    """Where a run keeps what it goes on from."""
    return config.output.with_name(f".{config.output.name}.partial")


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[Progress], None]:
    """A listener that asks for a stop as SIGTERM does, in the middle of its step."""
    asked: list[Stop] = []
    keep = callbacks.Checkpointing.__init__

    def remember(self: Any, every: int | None, stop: Stop, place: Path) -> None:
        asked.append(stop)
        keep(self, every, stop, place)

    monkeypatch.setattr(callbacks.Checkpointing, "__init__", remember)
    return lambda progress: asked[-1].ask() if progress.step == step else None
