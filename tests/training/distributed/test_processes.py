"""Two real processes do what one does with the same rows a step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from training.config import TrainConfig
from training.configfile import dump_config
from training.distributed.launch import CONFIGS
from training.evaluation.config import EvaluationConfig
from training.train import run

ROOT = Path(__file__).parents[3]
PARTIAL = ".two.partial"
NEEDS_DEEPSPEED = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
FIGURES = ("eval_loss_before", "general_loss_before", "general_loss", "accuracy", "f1", "intruders")


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=240,
    )


def accelerate(sharding: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    file = CONFIGS / f"{sharding}.yaml"
    return python("-m", "accelerate.commands.launch", "--config_file", file, "-m", "lorikeet.cli", *arguments)


def torchrun(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return python(
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "lorikeet.cli",
        *arguments,
    )


def course(folder: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def check_same(single: Path, other: Path) -> None:
    for key in ("loss", "eval_loss", *FIGURES):
        found = course(single, key)
        assert found and course(other, key) == pytest.approx(found, abs=5e-5), key
    mean, theirs_mean = (
        json.loads((folder / "training.json").read_text())["metrics"]["train_loss"]
        for folder in (single, other)
    )
    assert theirs_mean == pytest.approx(mean, abs=5e-5)
    mine, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (single, other))
    assert mine.keys() == theirs.keys()
    for name, weight in mine.items():
        assert theirs[name].shape == weight.shape and theirs[name].dtype == weight.dtype
        assert torch.allclose(weight, theirs[name], atol=2e-4), name
    assert sorted(path.name for path in single.iterdir()) == sorted(path.name for path in other.iterdir())


@pytest.fixture
def both(held_out: TrainConfig, tmp_path: Path, write_jsonl: Callable[..., Path]) -> Any:
    """Trains alone with 8 rows a step, and says how two processes with 4 each are to train the same."""
    general = write_jsonl([{"prompt": "Name a fruit.", "completion": "apple"}] * 3, "general.jsonl")

    def make(quantization: str, answers: str = "labels") -> tuple[Path, Path, TrainConfig]:
        asked = EvaluationConfig(answers=answers, general=general, intruders=8)
        # 12 rows: the second step of each epoch is half empty.
        optim = replace(held_out.optim, max_steps=8, eval_every=3, learning_rate=5e-3)
        fast = "on" if quantization == "nf4" else "off"
        one = replace(
            held_out, evaluation=asked, optim=optim, quantization=quantization, checkpoint_every=2, fast=fast
        )
        run(replace(one, output=tmp_path / "one"))
        two = replace(one, output=tmp_path / "two", optim=replace(optim, batch_size=4))
        toml = tmp_path / "run.toml"
        toml.write_text(dump_config(two))
        return tmp_path / "one", toml, two

    return make


KILL = """
import sys
from training.distributed.launch import ProcessLost, launch
try:
    launch(sys.argv[1], 2, "tests.training.distributed.killed", [sys.argv[2]])
except ProcessLost as lost:
    sys.exit(f"lost: {lost}")
"""


@pytest.mark.parametrize(
    ("sharding", "quantization", "answers", "shares"),
    [
        ("ddp", "none", "labels", ""),
        ("fsdp2", "nf4", "labels", "__1_*.distcp"),
        pytest.param("zero3", "none", "generate", "zero_pp_rank_1_*_states.pt", marks=NEEDS_DEEPSPEED),
    ],
    ids=["ddp", "fsdp2", "zero3"],
)
def test_a_killed_process_ends_the_run_and_it_goes_on(
    both: Any, sharding: str, quantization: str, answers: str, shares: str
) -> None:
    single, toml, two = both(quantization, answers)
    done = python("-c", KILL, sharding, toml)
    assert done.returncode == 1
    assert "lost: process 1 was ended by SIGKILL, and the others with it" in done.stderr
    assert "go on from the last checkpoint" in done.stderr
    assert not two.output.exists()
    checkpoints = two.output.with_name(PARTIAL) / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-4"]
    # What the second process has a share of, it has written itself.
    assert not shares or list(checkpoints.rglob(shares))

    again = torchrun("train", toml) if sharding == "ddp" else accelerate(sharding, "train", toml)
    assert again.returncode == 0, again.stderr
    assert again.stdout.strip() == str(two.output)
    check_same(single, two.output)
    assert not two.output.with_name(PARTIAL).exists()


def test_sharded_processes_train_as_one(both: Any) -> None:
    single, toml, two = both("none", "generate")
    done = python("-m", "lorikeet.cli", "train", toml, "--processes", "2", "--sharding", "fsdp2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(two.output)
    assert "8 steps in" in done.stderr
    check_same(single, two.output)
