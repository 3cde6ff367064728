"""What a run leaves behind: an ordinary PEFT folder with a card and the whole story of its making."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from adapters.errors import InvalidAdapter
from adapters.format import inspect
from adapters.manifest import BaseShapes
from training.config import TrainConfig
from training.errors import Diverged, UnservableAdapter

STORY_FILE = "training.json"
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "tokenizers", "safetensors")
MAX_RANK = 4096


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run did. Losses are nats per loss token; `eval_loss` is None without held-out rows."""

    output: Path
    num_steps: int
    train_loss: float
    eval_loss: float | None
    num_train_rows: int
    num_eval_rows: int
    num_parameters: int
    seconds: float


def check_moved(model: PeftModel) -> None:
    """Raises `Diverged` when no B left zero: such an adapter is the base in disguise."""
    factors = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    if not any(bool(weight.detach().any()) for weight in factors):
        raise Diverged("no weight of the adapter moved: raise optim.learning_rate or train for more steps")


def check_servable(folder: Path, linears: dict[str, tuple[int, int]]) -> None:
    """The server's own check of the folder. Raises `UnservableAdapter`."""
    try:
        inspect(folder, BaseShapes(linears), MAX_RANK, allow_extra=True)
    except InvalidAdapter as error:
        raise UnservableAdapter(f"the server would refuse this adapter: {error}") from error


def linear_shapes(model: Any) -> dict[str, tuple[int, int]]:
    """Every linear of a bare base but its output head: name -> (out_features, in_features)."""
    head = model.get_output_embeddings()
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


def write_adapter(folder: Path, model: PeftModel, config: TrainConfig, result: TrainResult) -> None:
    """Writes weights, config, card and story into `folder`."""
    # The vocabulary is never changed here; looking for changes would ask the hub about the base.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / STORY_FILE).write_text(json.dumps(story(config, result), indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(config, result), encoding="utf-8")


def story(config: TrainConfig, result: TrainResult) -> dict[str, Any]:
    """All that it takes to tell how an adapter came to be, and to make it again."""
    files = {"train": config.data.train, "eval": config.data.eval}
    return {
        "config": json.loads(json.dumps(asdict(config), default=str)),
        "data_sha256": {name: sha256(path) for name, path in files.items() if path},
        "seed": config.seed,
        "versions": {name: version(name) for name in LIBRARIES},
        "metrics": {key: value for key, value in asdict(result).items() if key != "output"},
    }


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def card(config: TrainConfig, result: TrainResult) -> str:
    """The model card, in Markdown with the front matter that hubs read."""
    lora, optim = config.lora, config.optim
    held = "none held out" if result.eval_loss is None else f"{result.eval_loss:.4f}"
    return f"""---
base_model: {json.dumps(config.base)}
library_name: peft
pipeline_tag: text-generation
tags: [lora]
---

# {config.output.name}

A LoRA adapter for `{config.base}`.

| | |
|---|---|
| rank, alpha, dropout | {lora.rank}, {lora.alpha:g}, {lora.dropout:g} |
| base in training | {config.quantization} |
| rows (train, held out) | {result.num_train_rows}, {result.num_eval_rows} |
| learning rate, schedule | {optim.learning_rate:g}, {optim.schedule} |
| batch size, accumulation, steps | {optim.batch_size}, {optim.accumulation}, {result.num_steps} |
| seed | {config.seed} |
| train loss | {result.train_loss:.4f} |
| held-out loss | {held} |

The loss is in nats per token of the answers. `training.json` has the whole config, the data's digests and the
versions of the libraries; `metrics.jsonl` has the course of the run.
"""
