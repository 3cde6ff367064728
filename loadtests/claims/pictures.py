"""What was measured as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from loadtests.claims.costs import Flops
from loadtests.claims.learn import Trial
from loadtests.claims.measured import Measured
from loadtests.claims.sweeps import Best, best_of, mean_losses
from loadtests.concurrent import Speed
from loadtests.merge_routes import Route
from loadtests.report.plots import COLORS, Draw, legend, logarithmic, write_png

LOSS = "held-out loss, nats a token"


def write_pictures(folder: Path, measured: Measured) -> None:
    """One for each part that was measured."""
    if measured.ranks:
        write_png(folder / "ranks.png", _rates(measured.ranks))
    if measured.placement:
        losses = {best.subject: best.loss for best in best_of(measured.placement)}
        write_png(folder / "placement.png", _points(losses, LOSS))
    if measured.batches:
        write_png(folder / "batches.png", _batches(best_of(measured.batches)))
    if measured.operations:
        write_png(folder / "operations.png", _flops(measured.operations))
    if measured.merge:
        write_png(folder / "merge.png", _points(_losses(measured.merge), f"{LOSS}, trained over NF4"))
    for speeds in measured.speed:
        write_png(folder / "speed.png", _speeds(speeds.plain))


def _rates(trials: Sequence[Trial]) -> Draw:
    """Loss by learning rate; the mean of the seeds."""

    def draw(axes: Axes) -> None:
        for (subject, means), color in zip(mean_losses(trials).items(), COLORS, strict=False):
            axes.plot(list(means), list(means.values()), "o-", color=color, label=subject)
        axes.set(xlabel="learning rate", ylabel=LOSS, xscale="log")
        logarithmic(axes.xaxis)
        legend(axes)

    return draw


def _batches(found: Sequence[Best]) -> Draw:
    def draw(axes: Axes) -> None:
        for subject, color in zip(dict.fromkeys(each.subject for each in found), COLORS, strict=False):
            own = sorted((each.batch, each.loss) for each in found if each.subject == subject)
            axes.plot(*zip(*own, strict=True), "o-", color=color, label=subject)
        axes.set(xlabel="rows a step", ylabel=LOSS, xscale="log")
        logarithmic(axes.xaxis)
        legend(axes)

    return draw


def _flops(found: Sequence[Flops]) -> Draw:
    full = next(each.count for each in found if not each.rank and not each.recomputed)

    def draw(axes: Axes) -> None:
        for recomputed, color in zip((False, True), COLORS, strict=False):
            own = [
                (each.rank, each.count / full)
                for each in found
                if each.rank and each.recomputed == recomputed
            ]
            label = "activations computed again" if recomputed else "activations kept"
            axes.plot(*zip(*own, strict=True), "o-", color=color, label=label)
        axes.axhline(2 / 3, color="#999999", linestyle=":")
        axes.set(xlabel="rank (dotted: two thirds)", ylabel="FLOPs over full's", xscale="log", ylim=(0, None))
        logarithmic(axes.xaxis)
        legend(axes)

    return draw


def _speeds(speeds: Sequence[Speed]) -> Draw:
    def draw(axes: Axes) -> None:
        for how, color in zip(dict.fromkeys(each.how for each in speeds), COLORS, strict=False):
            own = [(each.adapters, each.tokens_per_second) for each in speeds if each.how == how]
            axes.plot(*zip(*own, strict=True), "o-", color=color, label=how)
        axes.set(xlabel="adapters at once", ylabel="tokens/s", xscale="log", ylim=(0, None))
        logarithmic(axes.xaxis)
        legend(axes)

    return draw


def _points(values: dict[str, float], label: str) -> Draw:
    """Points and no bars: the axis begins near the smallest, as differences are what is looked at."""

    def draw(axes: Axes) -> None:
        axes.plot(list(values.values()), list(values), "o", color=COLORS[0])
        axes.set(xlabel=label)
        axes.margins(y=0.15)

    return draw


def _losses(routes: Sequence[Route]) -> dict[str, float]:
    """Without the base alone, which is far off."""
    return {each.name: each.loss for each in routes if each.trained_on == "nf4" and "alone" not in each.name}
