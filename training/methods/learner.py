"""A base made ready to learn by a method, and the folder that it leaves behind.

Trainers of any kind take `Learner.model` as it is: what is to be trained, and nothing else, wants gradients.

    learner = make_learner(config, examples, pad, folder)
    SomeTrainer(learner.model, ...).train()
    learner.settle()
    learner.save(folder, tokenizer, examples)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase, set_seed

from adapters.shapes import BaseShapes
from training.artifact import base_shapes, check_servable
from training.config import TrainConfig
from training.encode import Example
from training.methods.adalora import note_pruned
from training.methods.conversion import CONVERTED, check_conversion, save_converted, write_start
from training.methods.guards import Prints, check_moved, fingerprints, trainables
from training.methods.inits import start_from_data, start_from_rounding
from training.methods.method import Method
from training.methods.table import METHODS
from training.methods.whole import as_stored, open_weights, write_model
from training.model import Model, adapt, load_base


@dataclass(frozen=True, slots=True)
class Learner:
    """`weights` are what learns, `before` their fingerprints; `shapes` those of the bare base."""

    config: TrainConfig
    model: Model
    shapes: BaseShapes
    weights: dict[str, nn.Parameter]
    before: Prints

    @property
    def method(self) -> Method:
        return METHODS[self.config.method]

    @property
    def num_parameters(self) -> int:
        """How many numbers learn."""
        return sum(weight.numel() for weight in self.weights.values())

    def check_moved(self) -> None:
        """Raises `Diverged` when nothing was learned."""
        check_moved(self.weights, self.before)

    def settle(self) -> None:
        """Puts the model in the state in which it is judged and saved."""
        self.check_moved()
        self.model.eval()
        if self.method.makes_model:
            as_stored(self.model, self.config.base)
        if self.method.family == "adalora":
            note_pruned(self.model)

    def save(
        self, folder: Path, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
    ) -> dict[str, float]:
        """Writes what was learned into `folder` and returns what the saving has cost, by name.

        Raises `UnservableAdapter` for what a server would refuse or for a conversion that is off.
        """
        if self.method.makes_model:
            write_model(folder, self.model, tokenizer)
            return {}
        if self.config.lora.init not in CONVERTED:
            # The vocabulary is never changed here; looking for changes would ask the hub about the base.
            self.model.save_pretrained(str(folder), save_embedding_layers=False)
            check_servable(folder, self.shapes)
            return {}
        save_converted(self.model, folder)
        check_servable(folder, self.shapes)
        pad = int(tokenizer.pad_token_id)
        return {"conversion_error": check_conversion(self.model, folder, self.config, examples, pad)}


def make_learner(config: TrainConfig, examples: Sequence[Example], pad: int, folder: Path) -> Learner:
    """The base with what `config` trains on it; `folder` keeps starts that saving has to take away again.

    The same config gives the same start. Raises `InvalidBase` and `InvalidConfig`.
    """
    # Before the adapter is made: its A is drawn from this seed.
    set_seed(config.seed)
    whole = METHODS[config.method].makes_model
    # A small step is lost in a weight of 16 bits, so weights that learn themselves have 32.
    base = load_base(config.base, "float32" if whole else config.dtype, config.quantization)
    shapes = base_shapes(base)
    if whole:
        model = open_weights(base, config)
    else:
        model = adapt(base, config)
        _start(model, config, examples, pad, folder)
    weights = trainables(model)
    return Learner(config, model, shapes, weights, fingerprints(weights))


def _start(model: Model, config: TrainConfig, examples: Sequence[Example], pad: int, folder: Path) -> None:
    if config.lora.init == "eva":
        start_from_data(model, examples, config, pad)
    if config.lora.init == "loftq":
        start_from_rounding(model, config.base)
    if config.lora.init in CONVERTED:
        write_start(model, folder)
