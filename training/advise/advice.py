"""Applies the rules to a situation, and writes what they say as the settings of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from training.advise.figures import Figures, figures
from training.advise.rules import FEW_ROWS, RULES, SERVING, Case
from training.advise.situation import Situation
from training.base import read_base
from training.config import ALL_LINEAR, TrainConfig
from training.errors import TrainingError
from training.rates import formula_rate


class NotOffered(TrainingError):
    """The advice is a task that `lorikeet train` does not do."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One option's value, the rule that chose it, and that rule's reason."""

    option: str
    value: Any
    rule: str
    why: str


@dataclass(frozen=True, slots=True)
class Advice:
    """A choice for each option; `cautions` are sentences about the situation as a whole.

    `peak` is the memory of a step in GiB, None where nothing fits; `learning_rate` None without a base.
    """

    choices: tuple[Choice, ...]
    cautions: tuple[str, ...]
    peak: float | None
    learning_rate: float | None

    def __getitem__(self, option: str) -> Any:
        """The value that was chosen for an option."""
        return next(choice.value for choice in self.choices if choice.option == option)

    def record(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return asdict(self)


def advise(situation: Situation) -> Advice:
    """What to do. Raises `InvalidBase` for a base that cannot be read."""
    case = Case(situation, figures(situation))
    known = asdict(situation) | asdict(case.found)
    chosen: dict[str, Choice] = {}
    for rule in RULES:
        if rule.option not in chosen and rule.when(case):
            value = rule.value(case) if callable(rule.value) else rule.value
            chosen[rule.option] = Choice(rule.option, value, rule.name, rule.why.format(**known))
    full = chosen["method"].value == "full"
    choices = tuple(c for c in chosen.values() if not (full and c.option.startswith("lora.")))
    return Advice(
        choices=choices,
        cautions=tuple(_cautions(case, chosen["task"].value)),
        peak=_peak(case.found, full),
        learning_rate=_rate(situation, full),
    )


def _peak(found: Figures, full: bool) -> float | None:
    if full:
        return round(found.full_memory, 2)
    return None if found.plan is None else round(found.plan.peak, 2)


def _rate(situation: Situation, full: bool) -> float | None:
    if situation.base is None:
        return None
    text = read_base(situation.base).get_text_config()
    return formula_rate(str(text.model_type), int(text.hidden_size), full=full)


def _cautions(case: Case, task: str) -> Iterator[str]:
    asked, found = case.asked, case.found
    if found.plan is None:
        yield f"nothing fits into {asked.memory:g} GiB: take a smaller base, or several devices"
    if asked.rows < FEW_ROWS:
        yield f"{asked.rows} rows are few: try them as examples in the prompt before training on them"
    if not found.holds:
        yield f"about {found.bits:,} bits exceed what an adapter holds: all weights would learn more"
    if asked.continues:
        yield "to keep old skills, start from the old adapter, mix old rows in, and watch their loss"
    if asked.tenants > 1 and asked.latency == "lowest":
        yield "merging would take a device for each tenant: stay hot, and pin the adapters that must be fast"
    if task not in offered_tasks():
        yield f"`lorikeet train` does not do {task}: TRL's trainer does, and its folder can be uploaded"


def offered_tasks() -> tuple[str, ...]:
    """The tasks that a run can have."""
    kinds = {item.name: item.metadata.get("choices", ()) for item in fields(TrainConfig)}
    return tuple(kinds.get("task") or ("sft",))


def starter(advice: Advice, situation: Situation, folder: Path = Path()) -> str:
    """The advice as TOML for a file in `folder`, each setting under its reason. Raises `NotOffered`."""
    if advice["task"] not in offered_tasks():
        raise NotOffered(f"`lorikeet train` does not do {advice['task']}: there are no settings to write")
    known = {item.name for item in fields(TrainConfig)}
    chosen = [c for c in advice.choices if c.option != SERVING and c.option.partition(".")[0] in known]
    base = situation.base or ""
    base = os.path.relpath(base, folder) if Path(base).is_dir() and base else base
    lines = _assigned({"base": base, "output": os.path.relpath(situation.output, folder)})
    lines += _lines([choice for choice in chosen if "." not in choice.option])
    data = {"train": os.path.relpath(situation.train, folder), "max_length": situation.row_tokens}
    lines += ["", "[data]", *_assigned(data)]
    lines += _lines([choice for choice in chosen if choice.option.startswith("data.")])
    for section in ("lora", "optim"):
        settings = list(_lines([choice for choice in chosen if choice.option.startswith(f"{section}.")]))
        lines += ["", f"[{section}]", *settings] if settings else []
    return "\n".join(lines) + "\n"


def _assigned(settings: dict[str, Any]) -> list[str]:
    return [f"{name} = {json.dumps(value)}" for name, value in settings.items()]


def _lines(choices: list[Choice]) -> Iterator[str]:
    for choice in choices:
        value = choice.value[0] if choice.value == (ALL_LINEAR,) else choice.value
        yield f"# {choice.why} ({choice.rule})"
        yield f"{choice.option.rpartition('.')[2]} = {json.dumps(value)}"
