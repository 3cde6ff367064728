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
from training.distributed.gather import adapter_state, num_entries, sharded_loading, whole
from training.distributed.rules import loads_on_device, resolve_storage
from training.distributed.world import ALONE, World
from training.encode import Example
from training.fast.install import goes_fast, make_fast
from training.methods.adalora import note_pruned
from training.methods.conversion import check_conversion, save_converted, write_start
from training.methods.guards import Prints, check_moved, fingerprints, trainables
from training.methods.inits import start_from_data, start_from_rounding
from training.methods.method import CONVERTED, Method
from training.methods.table import METHODS
from training.methods.whole import as_stored, open_weights, write_model
from training.model import Model, adapt, load_base, resolve_dtype


@dataclass(frozen=True, slots=True)
class Learner:
    """`names` are those of the weights that learn, `before` their fingerprints; `shapes` the bare base's."""

    config: TrainConfig
    model: Model
    shapes: BaseShapes
    names: tuple[str, ...]
    before: Prints
    world: World = ALONE

    @property
    def method(self) -> Method:
        return METHODS[self.config.method]

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """What learns; sharding puts others in the place of those that were there."""
        found = dict(self.model.named_parameters())
        return {name: found[name] for name in self.names}

    @property
    def num_parameters(self) -> int:
        """How many numbers learn."""
        return sum(map(num_entries, self.weights.values()))

    def check_moved(self) -> None:
        """Raises `Diverged` when nothing was learned."""
        check_moved(whole(self.weights), self.before)

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

        Every process must ask, and the first writes. Raises `UnservableAdapter` for what a server would
        refuse or for a conversion that is off.
        """
        # Only what is shared out has to be gathered; PEFT finds the rest by itself.
        state = adapter_state(self.model) if self.world.is_sharded else None
        if not self.world.is_first:
            return {}
        if self.method.makes_model:
            write_model(folder, self.model, tokenizer)
            return {}
        if self.config.lora.init not in CONVERTED:
            # The vocabulary is never changed here; looking for changes would ask the hub about the base.
            self.model.save_pretrained(str(folder), state_dict=state, save_embedding_layers=False)
            check_servable(folder, self.shapes)
            return {}
        save_converted(self.model, folder)
        check_servable(folder, self.shapes)
        pad = int(tokenizer.pad_token_id)
        return {"conversion_error": check_conversion(self.model, folder, self.config, examples, pad)}


def make_learner(
    config: TrainConfig, examples: Sequence[Example], pad: int, folder: Path, world: World = ALONE
) -> Learner:
    """The base with what `config` trains on it; `folder` keeps starts that saving has to take away again.

    The same config gives the same start. Raises `InvalidBase` and `InvalidConfig`.
    """
    # Before the adapter is made: its A is drawn from this seed.
    set_seed(config.seed)
    # A small step is lost in a weight of 16 bits, so weights that learn themselves have 32.
    dtype = "float32" if METHODS[config.method].makes_model else config.dtype
    storage = resolve_storage(config, world, resolve_dtype(dtype))
    on_device = loads_on_device(config, world)
    with sharded_loading(world):
        base = load_base(config.base, dtype, config.quantization, storage, on_device)
    return learner_over(base, config, examples, pad, folder, world)


def learner_over(
    base: Model,
    config: TrainConfig,
    examples: Sequence[Example],
    pad: int,
    folder: Path,
    world: World = ALONE,
) -> Learner:
    """The same over a base that is there; the seed must be set before."""
    shapes, fast = base_shapes(base), goes_fast(config, world)
    if METHODS[config.method].makes_model:
        model = open_weights(base, config)
    else:
        model = adapt(base, config, fast)
        _start(model, config, examples, pad, folder if world.is_first else None)
        if fast:
            make_fast(model, world)
    weights = trainables(model)
    return Learner(config, model, shapes, tuple(weights), fingerprints(whole(weights)), world)


def _start(
    model: Model, config: TrainConfig, examples: Sequence[Example], pad: int, folder: Path | None
) -> None:
    if config.lora.init == "eva":
        start_from_data(model, examples, config, pad)
    if config.lora.init == "loftq":
        start_from_rounding(model, config.base)
    if config.lora.init in CONVERTED and folder is not None:
        write_start(model, folder)
