"""What a run really takes: two steps of it with its longest rows, watched."""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from training.config import TrainConfig
from training.data import Row
from training.memory.storages import Storages
from training.train import run


def measured(config: TrainConfig, longest: Sequence[Row]) -> int:
    """Bytes at the peak of two steps over `longest`, by torch's own count. Raises what a run raises."""
    with tempfile.TemporaryDirectory() as folder:
        short = _shortened(config, longest, Path(folder))
        if not torch.cuda.is_available():
            with Storages() as watched:
                run(short)
            return int(watched.peak)
        _forget()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(short)
        return torch.cuda.max_memory_allocated() - before


def _forget() -> None:
    """Gives back what runs before have left on the GPU, cuBLAS' memory too: a run is weighed with its own."""
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()


def _shortened(config: TrainConfig, longest: Sequence[Row], folder: Path) -> TrainConfig:
    """Two steps over the same batch, without evaluation: the second one has the optimizer's state."""
    rows = folder / "rows.jsonl"
    lines = [json.dumps(_line(row)) for row in (*longest, *longest)]
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = replace(config.data, train=rows, eval=None, eval_fraction=0.0)
    optim = replace(config.optim, max_steps=2, eval_every=None, patience=None)
    return replace(config, data=data, optim=optim, output=folder / "adapter")


def _line(row: Row) -> dict[str, object]:
    if row.plain:
        return {"prompt": row.prompt[0]["content"], "completion": row.completion}
    return {"messages": list(row.messages)}
