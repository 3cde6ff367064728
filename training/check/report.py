"""What a check found, as data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol

Level = Literal["error", "warning", "note"]
MAX_TOLD = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know before training; `rule` is its short name, `text` says what to do."""

    level: Level
    rule: str
    text: str


class Section(Protocol):
    """Figures of one kind: a dataclass that can also tell them to a reader."""

    def facts(self) -> list[tuple[str, str]]:
        """What each figure is called, and the figure."""


@dataclass(slots=True)
class CheckReport:
    """Everything that was found, in the order of looking."""

    findings: list[Finding] = field(default_factory=list)
    sections: dict[str, Section] = field(default_factory=dict)

    def add(self, level: Level, rule: str, texts: Iterable[str]) -> None:
        """One finding for each text; of more than `MAX_TOLD` the rest is counted."""
        told = list(texts)
        self.findings += [Finding(level, rule, text) for text in told[:MAX_TOLD]]
        if len(told) > MAX_TOLD:
            self.findings.append(Finding(level, rule, f"and {len(told) - MAX_TOLD} more like these"))

    def allow(self, rules: Iterable[str]) -> None:
        """Errors of these rules count as warnings."""
        allowed = set(rules)
        self.findings = [
            replace(found, level="warning") if found.level == "error" and found.rule in allowed else found
            for found in self.findings
        ]

    def of(self, level: Level) -> Iterator[Finding]:
        """The findings of one level."""
        return (found for found in self.findings if found.level == level)

    @property
    def passed(self) -> bool:
        """Whether nothing stands against training."""
        return not any(self.of("error"))

    def record(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return {
            "passed": self.passed,
            "findings": [asdict(found) for found in self.findings],
            **{name: _plain(section) for name, section in self.sections.items()},
        }


def _plain(section: Any) -> dict[str, Any]:
    shown: dict[str, Any] = asdict(section)
    return shown
