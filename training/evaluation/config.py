"""What is measured besides the loss on held-out rows, and where the figures go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from training.option import option

TRACKERS = ("tensorboard", "wandb")


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """Measured after training, on the weights that are saved."""

    answers: str = option(
        "how held-out rows are answered: labels takes the likeliest of evaluation.labels, generate decodes "
        "greedily, none leaves it at the loss",
        "none",
        choices=("none", "labels", "generate"),
    )
    labels: tuple[str, ...] | None = option(
        "the answers to choose from; all that the train rows have when left out", None
    )
    max_rows: int = option("how many held-out rows are answered, from the first on", 500, least=1)
    general: Path | None = option(
        "JSONL file of rows that are not the task: what their loss gains is what was forgotten", None
    )
    intruders: int = option(
        "leading directions of each adapted linear that are looked through for intruders; 0 leaves it out",
        0,
        least=0,
    )
    report_to: tuple[str, ...] | None = option(
        f"where the course of the run goes besides metrics.jsonl: {' and '.join(TRACKERS)}", None
    )


def evaluation_problems(evaluation: EvaluationConfig, has_held_out: bool) -> Iterator[str]:
    """What cannot be measured or reported so, one sentence each."""
    if evaluation.answers != "none" and not has_held_out:
        yield "evaluation.answers needs held-out rows: give data.eval or data.eval_fraction"
    if evaluation.labels and evaluation.answers != "labels":
        yield 'evaluation.labels are for evaluation.answers = "labels": set that, or leave them out'
    for name in evaluation.report_to or ():
        if name not in TRACKERS:
            yield f"evaluation.report_to may name {' and '.join(TRACKERS)}, not {name!r}"
        elif find_spec(name) is None:
            yield f"evaluation.report_to: {name} is not installed: pip install {name}"
