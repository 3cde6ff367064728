"""A run taken apart: the learner after its steps, and what a server makes of the folder that it saves."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from adapters.files import CONFIG_NAME, WEIGHTS_NAME
from adapters.merge.checkpoint import Checkpoint
from adapters.merge.recipes import Trained
from tests.adapters.small import take_over
from tests.dense import logits
from training.config import TrainConfig
from training.data import read_rows
from training.encode import Example, encode_rows
from training.merge_models import dense_model
from training.methods.learner import Learner, make_learner
from training.methods.settle import settled
from training.model import load_tokenizer
from training.quiet import quiet
from training.stopping import Stop
from training.trainer import Job, LearnTrainer

IDS = torch.arange(10, 42).view(2, 16)


@dataclass
class Lesson:
    """What a run has in hand before it trains."""

    config: TrainConfig
    tokenizer: PreTrainedTokenizerBase
    examples: list[Example]
    learner: Learner
    place: Path

    def trainer(self, tether: Any = None) -> LearnTrainer:
        job = Job(self.examples, [], int(self.tokenizer.pad_token_id), tether)
        return LearnTrainer(self.learner, job, self.place, Stop(), None)

    def train(self) -> LearnTrainer:
        trainer = self.trainer()
        with quiet():
            trainer.train()
        self.learner.settle()
        return trainer

    def logits(self) -> Tensor:
        """[2, 16, vocab] of the trainer's own model."""
        with torch.inference_mode(), quiet():
            found: Tensor = self.learner.model.eval()(input_ids=IDS, use_cache=False).logits
        return found[:, -IDS.shape[1] :].float()

    def save(self) -> Path:
        """The folder as it is uploaded: PEFT's two files."""
        with quiet():
            self.learner.save(self.place, self.tokenizer, self.examples)
        upload = self.place / "upload"
        upload.mkdir()
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            shutil.copy(self.place / name, upload)
        return upload


def lesson(config: TrainConfig, place: Path) -> Lesson:
    """Ready to train; nothing is written into `place` before."""
    config = settled(config)
    place.mkdir(exist_ok=True)
    tokenizer = load_tokenizer(config.base)
    examples = encode_rows(read_rows(config.data.train), tokenizer, config.data, config.data.train)
    with quiet():
        learner = make_learner(config, examples, int(tokenizer.pad_token_id), place)
    return Lesson(config, tokenizer, examples, learner, place)


def plain_base(config: TrainConfig) -> Any:
    """The base as the run held it, every weight in float32."""
    return dense_model(Trained(Checkpoint(Path(config.base)), config.quantization))


def served_logits(config: TrainConfig, upload: Path) -> Tensor:
    """[2, 16, vocab] of the folder in the server's normal form over the base as the run held it."""
    model = plain_base(config)
    _, weights, _ = take_over(model, upload)
    with quiet():
        return logits(model, weights, IDS).detach()


def off_by(found: Tensor, expected: Tensor) -> float:
    """Relative error over all logits."""
    return float((found - expected).norm() / expected.norm())
