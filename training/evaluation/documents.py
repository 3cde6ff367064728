"""What is written about a trained adapter into its folder: the last metrics, picture, card and manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.manifest import Manifest
from training.data import Row
from training.evaluation.card import card
from training.evaluation.curves import PICTURE, draw_curves
from training.files import METRICS_FILE, STORY_FILE
from training.manifest import write_manifest


def write_documents(
    folder: Path, title: str, checked: Manifest | None, held: Sequence[Row], metrics: Mapping[str, float]
) -> None:
    """Beside the weights and `training.json`; `checked` is None for a model that is no adapter."""
    story: dict[str, Any] = json.loads((folder / STORY_FILE).read_text(encoding="utf-8"))
    made = story["metrics"]
    losses = {name: made[name] for name in ("train_loss", "eval_loss") if made[name] is not None}
    figures = losses | dict(metrics)
    line = {"step": made["num_steps"], "seconds": made["seconds"]} | figures
    with (folder / METRICS_FILE).open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(line) + "\n")
    draw_curves(folder / METRICS_FILE, folder / PICTURE, title)
    (folder / "README.md").write_text(card(story, figures, title), encoding="utf-8")
    if checked is not None:
        write_manifest(folder, checked, story, held, figures)
