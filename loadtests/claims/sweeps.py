"""The three comparisons by held-out loss: of ranks, of placements at equal parameters, and of batches."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from loadtests.claims.learn import Run, Subject, Trial
from loadtests.claims.scale import Scale
from loadtests.figures import LoadTestError
from training.model import Model

FULL = Subject("full fine-tuning", 0)
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
PLACEMENTS = {
    "all linears": (*ATTENTION, *MLP),
    "MLP": MLP,
    "attention": ATTENTION,
    "q and v": ("q_proj", "v_proj"),
}


@dataclass(frozen=True, slots=True)
class Best:
    """A subject at the rate that is best on the mean of its seeds. losses: one for each seed."""

    subject: str
    rank: int
    batch: int
    rate: float
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        return statistics.fmean(self.losses)

    @property
    def spread(self) -> float:
        """Of the seeds."""
        return statistics.stdev(self.losses)


def of_ranks(scale: Scale) -> list[Run]:
    """Every rank on all linears, and every weight."""
    return _grid(scale, [FULL, *(Subject(f"rank {rank}", rank) for rank in scale.ranks)], [scale.batch])


def of_places(scale: Scale, base: Model) -> list[Run]:
    """Each placement with the rank that costs as many parameters as `placed_rank` on all linears."""
    subjects = [Subject(name, equal_rank(base, scale, names), names) for name, names in PLACEMENTS.items()]
    return _grid(scale, subjects, [scale.batch])


def of_batches(scale: Scale) -> list[Run]:
    """The same rows in steps of different sizes."""
    return _grid(scale, [FULL, Subject(f"rank {scale.placed_rank}", scale.placed_rank)], scale.batches)


def equal_rank(base: Model, scale: Scale, names: Iterable[str]) -> int:
    """At least 1."""
    whole = scale.placed_rank * _width(base, PLACEMENTS["all linears"])
    return max(1, round(whole / _width(base, names)))


def mean_losses(trials: Iterable[Trial]) -> dict[str, dict[float, float]]:
    """Of the seeds, by subject and learning rate; infinite where one diverged."""
    found: dict[str, dict[float, list[Trial]]] = {}
    for trial in trials:
        found.setdefault(trial.subject, {}).setdefault(trial.rate, []).append(trial)
    return {
        name: {rate: statistics.fmean(_losses(own)) for rate, own in sorted(by_rate.items())}
        for name, by_rate in found.items()
    }


def best_of(trials: Iterable[Trial]) -> list[Best]:
    """One for each subject and batch, in the order in which they come."""
    found: dict[tuple[str, int], dict[float, list[Trial]]] = {}
    for trial in trials:
        found.setdefault((trial.subject, trial.batch), {}).setdefault(trial.rate, []).append(trial)
    return [_best(by_rate) for by_rate in found.values()]


def deviations(worse: Best, better: Best) -> float:
    """How far `worse` is above `better`, in standard errors of the seeds' differences."""
    return in_errors([high - low for high, low in zip(worse.losses, better.losses, strict=True)])


def in_errors(differences: Sequence[float]) -> float:
    """Their mean in standard errors. Seeds are paired: each brings its own rows to both sides."""
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.fmean(differences) / max(error, 1e-9)


def _best(by_rate: dict[float, list[Trial]]) -> Best:
    rate, trials = min(by_rate.items(), key=lambda item: statistics.fmean(_losses(item[1])))
    trials = sorted(trials, key=lambda trial: trial.seed)
    losses = tuple(_losses(trials))
    if not all(math.isfinite(loss) for loss in losses):
        raise LoadTestError(
            f"{trials[0].subject} diverged at every learning rate: the scale needs lower ones"
        )
    return Best(trials[0].subject, trials[0].rank, trials[0].batch, rate, losses)


def _losses(trials: Iterable[Trial]) -> list[float]:
    return [math.inf if trial.loss is None else trial.loss for trial in trials]


def _grid(scale: Scale, subjects: Sequence[Subject], batches: Sequence[int]) -> list[Run]:
    points = product(subjects, batches, scale.rates, range(scale.seeds))
    return [Run(subject, rate, batch, seed) for subject, batch, rate, seed in points]


def _width(base: Model, names: Iterable[str]) -> int:
    """Parameters of rank 1 on the linears of one layer that have these names."""
    layer, wanted = base.get_decoder().layers[0], set(names)
    return sum(
        linear.in_features + linear.out_features
        for name, linear in layer.named_modules()
        if name.rpartition(".")[2] in wanted
    )
