"""The course of a run as a picture, drawn from its metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PICTURE = "curves.png"
_LOSSES = {"loss": "training loss", "eval_loss": "held-out loss", "general_loss": "general loss"}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def series(lines: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric; of several at one step the last."""
    found = {line["step"]: line[key] for line in lines if key in line}
    return list(found), list(found.values())


def draw_curves(metrics: Path, picture: Path, title: str) -> None:
    """Losses over steps, and the learning rate on an axis of its own, as a PNG."""
    # Figure alone, without pyplot: no window system is asked for and nothing is kept between calls.
    from matplotlib.figure import Figure

    lines = read_metrics(metrics)
    figure = Figure(figsize=(7, 4))
    figure.subplots_adjust(left=0.1, right=0.85)
    axes = figure.add_subplot(title=title, xlabel="step", ylabel="nats per loss token")
    for key, label in _LOSSES.items():
        steps, values = series(lines, key)
        if steps:
            axes.plot(steps, values, label=label, marker="o" if len(steps) < 20 else "", markersize=3)
    steps, rates = series(lines, "learning_rate")
    if steps:
        rate_axes = axes.twinx()
        rate_axes.set_ylabel("learning rate")
        rate_axes.plot(steps, rates, color="0.7", linewidth=1)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    # Without the library's name in it, the same curves are the same bytes.
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
