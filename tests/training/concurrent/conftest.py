"""Jobs that differ in everything but the base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from training.concurrent.base import SharedBase
from training.concurrent.rows import Rows
from training.concurrent.trainer import ConcurrentTrainer
from training.config import LoraSection, OptimConfig, TrainConfig
from training.encode import IGNORED, Example
from training.model import load_base, load_tokenizer

MakeBase = Callable[..., SharedBase]


@pytest.fixture(scope="session")
def shared(base: Path) -> MakeBase:
    """The micro base, taken over anew or, with the same options, the one made before."""
    made: dict[tuple[str, str, bool, bool], SharedBase] = {}

    def make(
        quantization: str = "none",
        dtype: str = "float32",
        together: bool = False,
        checkpointing: bool = False,
    ) -> SharedBase:
        key = (quantization, dtype, together, checkpointing)
        if key not in made:
            kept = "none" if quantization == "int8" else quantization
            made[key] = SharedBase(
                load_base(str(base), dtype, kept),
                together=together,
                quantization=quantization,
                checkpointing=checkpointing,
            )
        return made[key]

    return make


@pytest.fixture
def trainer(shared: MakeBase, base: Path) -> ConcurrentTrainer:
    return ConcurrentTrainer(shared(), load_tokenizer(str(base)))


def rows_of(seed: int, num_rows: int = 6, longest: int = 23, num_held: int = 0) -> Rows:
    """Random tokens, of which the last few of each row are learned."""
    random = Random(seed)

    def example() -> Example:
        length = random.randint(4, longest)
        ids = [random.randrange(400) for _ in range(length)]
        prompt = random.randint(1, length - 1)
        return Example(ids, [IGNORED] * prompt + ids[prompt:])

    return Rows([example() for _ in range(num_rows)], [example() for _ in range(num_held)])


def settings(config: TrainConfig, number: int, **optim: object) -> TrainConfig:
    """The number-th of a family of configs that have little in common."""
    random = Random(number)
    lora = LoraSection(
        rank=random.choice((1, 4, 6, 16)),
        alpha=random.choice((4.0, 16.0, 32.0)),
        rslora=random.random() < 0.5,
        targets=random.choice((("all-linear",), ("q_proj", "v_proj"), ("up_proj", "down_proj", "o_proj"))),
        layers_to_transform=random.choice((None, (1,))),
    )
    chosen = OptimConfig(
        learning_rate=random.choice((3e-2, 1e-2, 1e-3)),
        schedule=random.choice(("cosine", "linear", "constant")),
        warmup_steps=random.randrange(3),
        batch_size=random.choice((1, 2, 3, 5)),
        accumulation=random.choice((1, 1, 2)),
        weight_decay=random.choice((0.0, 0.1)),
        clip=random.choice((0.0, 0.1, 1.0)),
        max_steps=3,
    )
    output = config.output.with_name(f"job{number}")
    changed = replace(chosen, **optim)  # type: ignore[arg-type]
    return replace(config, output=output, lora=lora, optim=changed, seed=number, overwrite=True)
