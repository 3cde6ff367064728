"""A sweep: every learning rate with every rank, all on one base at once, judged on the same held-out rows."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from training.concurrent.offered import check_offered
from training.concurrent.rows import read
from training.concurrent.session import Sharing, opened
from training.concurrent.trainer import Outcome
from training.config import TrainConfig
from training.configfile import check_config
from training.errors import Diverged, InvalidConfig
from training.methods.settle import settled
from training.model import load_tokenizer
from training.progress import Report
from training.rates import with_rate
from training.workplace import check_output


@dataclass(frozen=True, slots=True)
class Grid:
    """What is tried; an empty list stands for the config's own value."""

    learning_rates: tuple[float, ...] = ()
    ranks: tuple[int, ...] = ()

    def configs(self, config: TrainConfig) -> list[TrainConfig]:
        """One config for each point."""
        rates = self.learning_rates or (config.optim.learning_rate,)
        return [
            replace(
                config,
                optim=replace(config.optim, learning_rate=rate),
                lora=replace(config.lora, rank=rank),
            )
            for rate, rank in product(rates, self.ranks or (config.lora.rank,))
        ]


@dataclass(frozen=True, slots=True)
class Trial:
    """One point of the grid. Losses are nats per loss token, None if it failed, of which `problem` tells."""

    learning_rate: float
    rank: int
    eval_loss: float | None
    train_loss: float | None
    num_steps: int
    num_parameters: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Sweep:
    """`trials`, the best first; its adapter is `output`."""

    output: Path
    trials: tuple[Trial, ...]


def sweep(config: TrainConfig, grid: Grid, sharing: Sharing, report: Report | None = None) -> Sweep:
    """Trains every point, keeps the adapter with the lowest held-out loss as `config.output`.

    Raises `InvalidConfig`, `InvalidData`, `InvalidBase`, or `Diverged` if no point came to an end.
    """
    config = with_rate(settled(config))
    points = grid.configs(config)
    _check(config, points)
    folder = config.output.with_name(f".{config.output.name}.sweep")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        outcomes = _train(points, folder, sharing, report)
        order = sorted(range(len(points)), key=lambda index: _loss(outcomes[index]))
        best = outcomes[order[0]].result
        if best is None:
            raise Diverged(f"every point of the sweep failed; the first: {outcomes[order[0]].error}")
        shutil.rmtree(config.output, ignore_errors=True)
        best.output.rename(config.output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Sweep(config.output, tuple(_trial(points[index], outcomes[index]) for index in order))


def _check(config: TrainConfig, points: Sequence[TrainConfig]) -> None:
    if not (config.data.eval or config.data.eval_fraction):
        raise InvalidConfig(
            ["a sweep compares held-out losses: give data.eval or data.eval_fraction (or --eval-fraction)"]
        )
    for point in points:
        check_config(point)
        check_offered(point)
    check_output(config)


def _train(
    points: Sequence[TrainConfig], folder: Path, sharing: Sharing, report: Report | None
) -> list[Outcome]:
    """In the order of `points`."""
    # A grid differs in what is done with the rows, not in the rows.
    rows = read(points[0], load_tokenizer(points[0].base))
    with opened(points, sharing, report) as trainer:
        for point in points:
            name = point_name(point)
            trainer.join(point, rows, name, folder / name)
        outcomes = {outcome.name: outcome for outcome in trainer.run()}
    return [outcomes[point_name(point)] for point in points]


def point_name(point: TrainConfig) -> str:
    """What tells a point from the others of its grid."""
    return f"rate {point.optim.learning_rate:g} rank {point.lora.rank}"


def _loss(outcome: Outcome) -> float:
    loss = outcome.result.eval_loss if outcome.result else None
    return math.inf if loss is None or math.isnan(loss) else loss


def _trial(point: TrainConfig, outcome: Outcome) -> Trial:
    result, rate = outcome.result, point.optim.learning_rate
    assert rate is not None, "every point of a grid has its rate"
    return Trial(
        learning_rate=rate,
        rank=point.lora.rank,
        eval_loss=result.eval_loss if result else None,
        train_loss=result.train_loss if result else None,
        num_steps=result.num_steps if result else 0,
        num_parameters=result.num_parameters if result else 0,
        problem=str(outcome.error or ""),
    )
