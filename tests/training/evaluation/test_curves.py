from __future__ import annotations

import json
from pathlib import Path

from training.evaluation.curves import draw_curves, read_metrics, series

LINES = [
    {"step": 1, "loss": 3.0, "learning_rate": 1e-3},
    {"step": 2, "loss": 2.0, "learning_rate": 5e-4},
    {"step": 2, "eval_loss": 2.5},
    {"step": 2, "eval_loss": 2.25, "accuracy": 0.5},
]


def write(folder: Path, lines: list[dict[str, float]]) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_series_has_one_value_a_step(tmp_path: Path) -> None:
    lines = read_metrics(write(tmp_path, LINES))
    assert series(lines, "loss") == ([1, 2], [3.0, 2.0])
    assert series(lines, "eval_loss") == ([2], [2.25])
    assert series(lines, "general_loss") == ([], [])


def test_the_same_curves_are_the_same_bytes_and_others_are_not(tmp_path: Path) -> None:
    pictures = []
    for number, lines in enumerate([LINES, LINES, LINES[:2]]):
        picture = tmp_path / f"{number}.png"
        draw_curves(write(tmp_path, lines), picture, "colors")
        pictures.append(picture.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]
    assert pictures[0].startswith(b"\x89PNG\r\n\x1a\n")
