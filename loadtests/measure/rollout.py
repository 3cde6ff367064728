"""Whether a new version took over as its alias said, and whether anybody felt it.

A shift of the alias ends one stage and begins the next. Which version answers is decided between a request's
sending and its first token, so a request belongs to a stage only if both lie in it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadtests.drive.records import Record, Run, Shift
from loadtests.measure.percentiles import Spread

Ask = Callable[[Record], float]


@dataclass(frozen=True)
class Stage:
    """From one shift to the next, and the answered requests that lie in it and asked for the alias."""

    shift: Shift
    records: tuple[Record, ...]

    def part(self, role: str) -> float:
        """Of the requests, nan without any."""
        found = [self.role(record) for record in self.records]
        return found.count(role) / len(found) if found else math.nan

    def role(self, record: Record) -> str:
        return self.shift.roles[record.version]

    def surprise(self, role: str) -> float:
        """How many standard deviations its part is off, if each session's version is drawn by chance."""
        wanted, part = self.shift.parts[role], self.part(role)
        sizes = Counter(record.session or record.index for record in self.records).values()
        chance = math.sqrt(wanted * (1 - wanted) * sum(size**2 for size in sizes)) / max(1, sum(sizes))
        off = abs(part - wanted)
        # Who is to get all or nothing leaves nothing to chance.
        if chance:
            return off / chance
        return math.inf if off > 1e-9 else 0.0 * off

    def median(self, value: Ask) -> float:
        return Spread.of([value(record) for record in self.records]).p50


@dataclass(frozen=True)
class Rollout:
    """worst_part: the furthest that a role's part of a stage is from what was wanted, 0 to 1.

    surprise: the same in standard deviations.
    split: sessions that got two roles in one stage; returns: sessions that went back to a role they had left.
    steps: medians of a stage over those of the first one, the furthest up; all are nan without two stages.
    """

    stages: tuple[Stage, ...]
    worst_part: float
    surprise: float
    split: float
    returns: float
    first_token_step: float
    per_token_step: float


def rollout(run: Run) -> Rollout:
    stages = stages_of(run)
    if len(stages) < 2:
        return Rollout(stages, *[math.nan] * 6)
    asked = [(stage, role) for stage in stages for role in stage.shift.parts]
    return Rollout(
        stages=stages,
        worst_part=_worst([abs(stage.part(role) - stage.shift.parts[role]) for stage, role in asked]),
        surprise=_worst([stage.surprise(role) for stage, role in asked]),
        split=float(sum(len(set(found)) > 1 for stage in stages for found in by_session([stage]).values())),
        returns=float(sum(map(goes_back, by_session(stages).values()))),
        first_token_step=_step(stages, lambda record: record.first_token),
        per_token_step=_step(stages, lambda record: record.per_token),
    )


def stages_of(run: Run) -> tuple[Stage, ...]:
    ends = [shift.begun for shift in run.shifts[1:]] + [math.inf]
    return tuple(
        Stage(shift, tuple(r for r in run.records if _is_in(r, shift, end)))
        for shift, end in zip(run.shifts, ends, strict=False)
    )


def _is_in(record: Record, shift: Shift, end: float) -> bool:
    is_asked = record.is_ok and record.version in shift.roles
    return is_asked and shift.done <= record.sent and record.times[0] < end


def by_session(stages: Sequence[Stage]) -> dict[str, list[str]]:
    """Session -> the roles that it got, in the order in which its requests were sent."""
    found: dict[str, list[str]] = defaultdict(list)
    for stage in stages:
        for record in sorted(stage.records, key=lambda record: record.sent):
            if record.session:
                found[f"{record.tenant}/{record.adapter}/{record.session}"].append(stage.role(record))
    return found


def goes_back(roles: Sequence[str]) -> bool:
    changes = [role for role, before in zip(roles, ["", *roles], strict=False) if role != before]
    return len(changes) > len(set(changes))


def _step(stages: Sequence[Stage], value: Ask) -> float:
    before = stages[0].median(value)
    return _worst([stage.median(value) / before for stage in stages[1:]]) if before else math.nan


def _worst(values: Sequence[float]) -> float:
    """The largest; nan if any is no number, since nothing is known of that stage."""
    return math.nan if any(map(math.isnan, values)) else max(values)
