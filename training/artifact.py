"""What a run tells of what it has made: the whole story of its making."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from adapters.errors import InvalidAdapter
from adapters.format import inspect
from adapters.manifest import BaseShapes, Manifest
from training.config import MAX_RANK, TrainConfig
from training.errors import UnservableAdapter
from training.files import STORY_FILE, sha256
from training.methods.lineage import ancestors
from training.preference.config import PreferenceSection

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "tokenizers", "safetensors")


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run did. Losses are nats per loss token; `eval_loss` is None without held-out rows.

    `saving` are the errors of what saving has converted, by name.
    """

    output: Path
    num_steps: int
    train_loss: float
    eval_loss: float | None
    num_train_rows: int
    num_eval_rows: int
    num_parameters: int
    seconds: float
    saving: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the rows of an imitation came from: the task that made them of `prompts`, and how it scored.

    `figures` are what it has measured of them, by name.
    """

    task: str
    preference: PreferenceSection
    prompts: Path
    figures: Mapping[str, float]


def check_servable(folder: Path, base: BaseShapes | dict[str, tuple[int, int]]) -> Manifest:
    """What the server's own check finds, over a base or its linears. Raises `UnservableAdapter`."""
    try:
        shapes = base if isinstance(base, BaseShapes) else BaseShapes(base)
        return inspect(folder, shapes, MAX_RANK, allow_extra=True)
    except InvalidAdapter as error:
        raise UnservableAdapter(f"the server would refuse this adapter: {error}") from error


def base_shapes(model: Any) -> BaseShapes:
    """All that an adapter can change in a bare base, as the server's check wants it."""
    config, table = model.config.get_text_config(), model.get_input_embeddings().weight
    # DeepSpeed's parameters are empty, and know what they are a share of.
    num_words, width = getattr(table, "ds_shape", table.shape)
    linears = linear_shapes(model)
    heads = int(config.num_attention_heads)
    return BaseShapes(
        linears=linears,
        biases=frozenset(name for name in linears if model.get_submodule(name).bias is not None),
        vocab_size=num_words,
        hidden_size=width,
        tied=bool(config.tie_word_embeddings),
        num_layers=int(config.num_hidden_layers),
        num_kv_heads=int(config.num_key_value_heads or heads),
        head_dim=int(getattr(config, "head_dim", None) or width // heads),
    )


def linear_shapes(model: Any) -> dict[str, tuple[int, int]]:
    """Every linear of a bare base but its output head: name -> (out_features, in_features)."""
    head = model.get_output_embeddings()
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


def write_story(folder: Path, config: TrainConfig, result: TrainResult, origin: Origin | None = None) -> None:
    """Writes the story into `folder`, beside what was trained."""
    told = {**story(config, result, origin), "weights_dtype": _dtypes(folder)}
    (folder / STORY_FILE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def story(config: TrainConfig, result: TrainResult, origin: Origin | None = None) -> dict[str, Any]:
    """All that it takes to tell how an adapter came to be, and to make it again."""
    files = {"train": config.data.train, "eval": config.data.eval, "old": config.keep.rows}
    if origin is not None:
        config = replace(config, task=origin.task, preference=origin.preference)
        files["prompts"] = origin.prompts
    return {
        "config": json.loads(json.dumps(asdict(config), default=str)),
        "data_sha256": {name: sha256(path) for name, path in files.items() if path},
        "seed": config.seed,
        "lineage": ancestors(config.init_from),
        "versions": {name: version(name) for name in LIBRARIES},
        "metrics": {key: value for key, value in asdict(result).items() if key != "output"},
    }


def _dtypes(folder: Path) -> list[str]:
    """Number formats of all saved tensors, by their names in safetensors."""
    found: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            # Not a dict, for all its keys.
            found |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    return sorted(found)
