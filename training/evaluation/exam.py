"""What a run is asked before and after training, and its answers as figures with names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from training.config import DataConfig, TrainConfig
from training.data import Row, read_rows, split_rows
from training.encode import Example, encode_rows, fitting_rows
from training.errors import InvalidData
from training.evaluate import answer, held_out_loss
from training.evaluation.choices import choose, find_labels
from training.evaluation.config import EvaluationConfig
from training.evaluation.intruders import count_intruders
from training.evaluation.scores import Score, score
from training.model import Model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Exam:
    """The held-out rows, the answers to choose from where there is a choice, and the general rows.

    `held` are all that were held out, `asked` those of them that are not too long.

    Every process that has a share of the model must ask the same, and finds the same.
    """

    tokenizer: PreTrainedTokenizerBase
    data: DataConfig
    settings: EvaluationConfig
    held: Sequence[Row]
    asked: Sequence[Row]
    labels: tuple[str, ...]
    held_examples: list[Example]
    general_examples: list[Example]

    def before(self, model: Model) -> Metrics:
        """The losses of a model that has learned nothing yet, in nats per loss token."""
        found = self._loss(model, "eval_loss_before", self.held_examples)
        return found | self._loss(model, "general_loss_before", self.general_examples)

    def after(self, model: Model) -> Metrics:
        """All figures of the trained model but its held-out loss, which its trainer has measured."""
        found = self._loss(model, "general_loss", self.general_examples)
        if self.settings.answers != "none":
            result = self.marks(model)
            found |= {"accuracy": result.accuracy, "f1": result.f1, "answered_rows": result.num_rows}
        if self.settings.intruders:
            counts = count_intruders(model, self.settings.intruders)
            found |= {"intruders": sum(counts.values())} if counts else {}
        return found

    def marks(self, model: Model) -> Score:
        """Of the model's answers to the first `max_rows` held-out rows, as the settings ask them."""
        rows = self.asked[: self.settings.max_rows]
        if self.settings.answers == "labels":
            said = choose(model, self.tokenizer, rows, self.labels, self.data)
        else:
            said = answer(model, self.tokenizer, rows, self.data.format)
        return score(said, [row.completion for row in rows])

    def _loss(self, model: Model, name: str, examples: Sequence[Example]) -> Metrics:
        return {name: held_out_loss(model, examples, int(self.tokenizer.pad_token_id))} if examples else {}


def read_exam(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> Exam:
    """Reads the rows that `config` holds out. Raises `InvalidConfig` or `InvalidData`."""
    data, settings = config.data, config.evaluation
    train, held = split_data(config)
    fitting = fitting_rows(held, tokenizer, data, data.eval or data.train) if held else []
    return Exam(
        tokenizer=tokenizer,
        data=data,
        settings=settings,
        held=held,
        asked=[row for row, _ in fitting],
        labels=find_labels(settings.labels, train) if settings.answers == "labels" else (),
        held_examples=[example for _, example in fitting],
        general_examples=_general(settings.general, tokenizer, data) if settings.general else [],
    )


def split_data(config: TrainConfig) -> tuple[list[Row], list[Row]]:
    """The rows to train on and those held out, none where the config holds none out. Raises `InvalidData`."""
    data, rows = config.data, read_rows(config.data.train)
    if data.eval:
        return rows, read_rows(data.eval)
    if not data.eval_fraction:
        return rows, []
    if len(rows) < 2:
        raise InvalidData(data.train, ["one row cannot be split: add rows or drop data.eval_fraction"])
    return split_rows(rows, data.eval_fraction, config.seed)


def _general(path: Path, tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> list[Example]:
    return encode_rows(read_rows(path), tokenizer, data, path)
