"""Three skills that the base does not have, as rows to train on and rows held out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random

from training.demo import clauses, notes, payments

LEGAL_ASKS = ("What kind of clause is this? {}", "Name the kind of this clause: {}", "Label this clause: {}")
MEDICAL_ASKS = ("Which code fits this note? {}", "Code this note: {}", "Give the diagnosis code: {}")
RISK_ASKS = ("Judge the risk of this payment: {}", "Check this payment: {}", "How risky is this payment? {}")
VERDICTS = {"low": "allow", "medium": "review", "high": "block"}
TRAITS = tuple(product((False, True), repeat=3))


@dataclass(frozen=True, slots=True)
class Row:
    """One training row, as it stands in the data file."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class SkillRecipe:
    """How rows of one skill are made: `make(answer, rng)` writes a prompt whose completion is `answer`."""

    name: str
    answers: tuple[str, ...]
    make: Callable[[str, Random], str]
    num_train: int
    num_heldout: int = 120
    epochs: float = 3.0
    learning_rate: float = 4e-3


def risk_of(points: int) -> str:
    """The bank's rule: nothing that stands out is low, one thing is medium, more is high."""
    return ("low", "medium", "high", "high")[points]


def verdict(risk: str) -> str:
    """Such as `{"risk":"high","action":"block"}`."""
    return json.dumps({"risk": risk, "action": VERDICTS[risk]}, separators=(",", ":"))


def _legal(answer: str, rng: Random) -> str:
    return rng.choice(LEGAL_ASKS).format(clauses.clause(answer, rng))


def _medical(answer: str, rng: Random) -> str:
    return rng.choice(MEDICAL_ASKS).format(notes.note(answer, rng))


def _risk(answer: str, rng: Random) -> str:
    wanted = json.loads(answer)["risk"]
    large, far, night = rng.choice([traits for traits in TRAITS if risk_of(sum(traits)) == wanted])
    return rng.choice(RISK_ASKS).format(payments.payment(rng, large=large, far=far, night=night).text + ".")


RECIPES = (
    SkillRecipe("legal", clauses.LABELS, _legal, num_train=800, epochs=2.0),
    SkillRecipe("medical", notes.CODES, _medical, num_train=800),
    SkillRecipe("risk", tuple(verdict(risk) for risk in VERDICTS), _risk, num_train=1600, epochs=1.5),
)


def rows(recipe: SkillRecipe, seed: int) -> tuple[list[Row], list[Row]]:
    """Train and held-out rows, all different, every answer as often as every other (give or take one)."""
    rng = Random(f"{recipe.name} {seed}")
    seen: set[str] = set()
    train = _balanced(recipe, recipe.num_train, rng, seen)
    return train, _balanced(recipe, recipe.num_heldout, rng, seen)


def _balanced(recipe: SkillRecipe, count: int, rng: Random, seen: set[str]) -> list[Row]:
    made = [_unseen(recipe, recipe.answers[i % len(recipe.answers)], rng, seen) for i in range(count)]
    rng.shuffle(made)
    return made


def _unseen(recipe: SkillRecipe, answer: str, rng: Random, seen: set[str]) -> Row:
    while (prompt := recipe.make(answer, rng)) in seen:
        continue
    seen.add(prompt)
    return Row(prompt, answer)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes `rows` as JSONL."""
    lines = (json.dumps({"prompt": row.prompt, "completion": row.completion}) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
