"""Applies the rules to a situation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from training.advise.figures import Figures, figures
from training.advise.rules import FEW_ROWS, RULES, Case
from training.advise.situation import Situation
from training.base import read_base
from training.config import TrainConfig
from training.rates import formula_rate


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
