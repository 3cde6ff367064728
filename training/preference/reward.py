"""A reward model: the base with one number for a head, under an adapter. It scores and is not served."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, set_seed
from transformers.utils import logging

from training.artifact import base_shapes
from training.config import TrainConfig
from training.errors import InvalidBase, InvalidConfig
from training.files import STORY_FILE
from training.methods.guards import fingerprints, trainables
from training.methods.learner import Learner
from training.methods.peft_configs import peft_config
from training.model import checkpoint, load_tokenizer, resolve_dtype
from training.preference.dataset import Script
from training.preference.rows import Record

_HEAD = "score"


def reward_learner(config: TrainConfig, pad: int) -> Learner:
    """The base with a fresh head and adapter, both of which learn. Raises `InvalidBase`, `InvalidConfig`."""
    # Head and adapter are drawn from this seed.
    set_seed(config.seed)
    base = _with_head(config.base, config.dtype, pad)
    if config.gradient_checkpointing:
        checkpoint(base)
    settings = peft_config(base, config)
    settings.task_type, settings.modules_to_save = "SEQ_CLS", [_HEAD]
    settings.target_modules = {name for name in settings.target_modules or () if name != _HEAD}
    model = get_peft_model(base, settings)
    weights = trainables(model)
    return Learner(config, model, base_shapes(base), tuple(weights), fingerprints(weights))


def save_reward(learner: Learner, folder: Path) -> None:
    """As PEFT writes it, the head among the weights."""
    learner.model.save_pretrained(str(folder), save_embedding_layers=False)


@dataclass(frozen=True, slots=True)
class RewardModel:
    """Scores answers by a reward model, written in its own base's script."""

    model: Any
    script: Script

    @torch.inference_mode()
    def __call__(self, records: Sequence[Record], answers: Sequence[str]) -> list[float]:
        ids = [self.script.ids(record, answer) for record, answer in zip(records, answers, strict=True)]
        batch = self.script.tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt")
        scores = self.model(**batch.to(self.model.device)).logits
        return [float(score) for score in scores[:, 0]]


def load_reward(folder: Path) -> RewardModel:
    """The reward model in `folder`. Raises `InvalidConfig` for a folder that is none, `InvalidBase`."""
    try:
        config = json.loads((folder / STORY_FILE).read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError) as error:
        raise InvalidConfig([f"preference.reward_model: {folder} was not written by a run"]) from error
    if config.get("task") != "reward":
        raise InvalidConfig([f"preference.reward_model: {folder} was trained by another task than reward"])
    tokenizer = load_tokenizer(config["base"])
    base = _with_head(config["base"], config["dtype"], int(tokenizer.pad_token_id))
    model = PeftModel.from_pretrained(base, str(folder)).eval()
    return RewardModel(model, Script(tokenizer, config["data"]["format"]))


def _with_head(base: str, dtype: str, pad: int) -> Any:
    """In eval mode, on the GPU if there is one; pad: the id after which nothing is scored."""
    device = {"device_map": {"": torch.cuda.current_device()}} if torch.cuda.is_available() else {}
    kind = resolve_dtype(dtype)
    try:
        with _errors_only():
            model = AutoModelForSequenceClassification.from_pretrained(
                base, num_labels=1, dtype=kind, **device
            )
    except (OSError, ValueError) as error:
        raise InvalidBase(f"{base} cannot be loaded with a head that scores: {error}") from error
    model.config.get_text_config().pad_token_id = pad
    return model.eval()


@contextmanager
def _errors_only() -> Iterator[None]:
    """Transformers says of every fresh head that it is fresh."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
