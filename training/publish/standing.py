"""How good base, current version and candidate are on the same held-out rows, and who may follow whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lorikeet.client import Client
from training.encode import encode_rows
from training.evaluate import answer, held_out_loss
from training.evaluation.scores import score
from training.manifest import rows_digest
from training.progress import Report
from training.publish.live import marks
from training.publish.plan import PublishPlan
from training.publish.trained import Trained


@dataclass(frozen=True, slots=True)
class Standing:
    """`loss` in nats per loss token over all held-out rows, None where nobody has measured it on these.

    `accuracy` and `f1` are of greedy answers to `num_rows` of them.
    """

    who: str
    loss: float | None
    accuracy: float
    f1: float
    num_rows: int


def of_base(trained: Trained, client: Client, plan: PublishPlan, report: Report | None) -> Standing:
    """The trainer's loss without the adapter; the server's answers without one."""
    with trained.model.disable_adapter():
        loss = _loss(trained)
    found = marks(client, "", trained, trained.held[: plan.rows], report)
    return Standing("base", loss, found.accuracy, found.f1, found.num_rows)


def of_candidate(trained: Trained, plan: PublishPlan) -> Standing:
    """By the trainer's model alone: nothing is uploaded yet."""
    rows = trained.held[: plan.rows]
    said = answer(trained.model, trained.tokenizer, rows, trained.config.data.format)
    found = score(said, [row.completion for row in rows])
    return Standing(str(trained.folder), _loss(trained), found.accuracy, found.f1, found.num_rows)


def of_version(
    trained: Trained, client: Client, adapter: str, plan: PublishPlan, report: Report | None
) -> Standing:
    """The server's answers; the loss if the version's own trainer has measured it on these rows."""
    told = client.adapters.card(adapter).training
    same = told.get("eval_sha256") == rows_digest(trained.held)
    loss = told.get("metrics", {}).get("eval_loss") if same else None
    found = marks(client, adapter, trained, trained.held[: plan.rows], report)
    return Standing(adapter, loss, found.accuracy, found.f1, found.num_rows)


def objections(candidate: Standing, base: Standing, current: Standing | None, margin: float) -> Iterator[str]:
    """Why `candidate` may not follow, one sentence each."""
    assert candidate.loss is not None and base.loss is not None, "the trainer measures both"
    if not candidate.loss < base.loss:
        yield (
            f"its held-out loss {candidate.loss:.4f} is not below the base's {base.loss:.4f}: it has "
            "learned nothing of the task"
        )
    for other in (base, current):
        if other is not None and candidate.accuracy < other.accuracy - margin:
            yield (
                f"it answers {candidate.accuracy:.1%} of {candidate.num_rows} held-out rows right, and "
                f"{other.who} {other.accuracy:.1%}: train it better, or allow for it by --margin"
            )
    if current is not None and current.loss is not None and candidate.loss > current.loss * (1 + margin):
        yield (
            f"its held-out loss {candidate.loss:.4f} is above the {current.loss:.4f} of {current.who}: train "
            "it better, or allow for it by --margin"
        )


def _loss(trained: Trained) -> float:
    data = trained.config.data
    examples = encode_rows(trained.held, trained.tokenizer, data, data.eval or data.train)
    return held_out_loss(trained.model, examples, int(trained.tokenizer.pad_token_id))
