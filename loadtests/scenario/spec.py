"""What a scenario's file says."""

import difflib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtests.figures import LoadTestError
from loadtests.measure.measures import Objective
from loadtests.scenario.read import build, merge, read_toml
from loadtests.workload.spec import Spec

FILES = Path(__file__).parent / "files"
# What an operator plays, all of it within minutes, and on a CPU.
SCALES = ("full", "brief", "small")


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A figure's bounds, both inclusive. What is no number meets no bar; `most = inf` takes a bar away."""

    least: float = -math.inf
    most: float = math.inf

    def holds(self, value: float) -> bool:
        return self.least <= value <= self.most

    @property
    def is_there(self) -> bool:
        return (self.least, self.most) != (-math.inf, math.inf)

    def __str__(self) -> str:
        bounds = [f">= {self.least:g}" if self.least > -math.inf else ""]
        bounds += [f"<= {self.most:g}" if self.most < math.inf else ""]
        return ", ".join(filter(None, bounds))


KILL, SHIFT = "kill-engine", "shift"


@dataclass(frozen=True, kw_only=True)
class Action:
    """Something that happens to the server `at` so many seconds.

    kill-engine: the front lives on. shift: the alias gives this part of all requests to the `new` version.
    """

    at: float
    kind: str
    new: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in (KILL, SHIFT):
            raise ValueError(f"kind {self.kind!r} is none of {KILL}, {SHIFT}")
        if not 0 <= self.new <= 1:
            raise ValueError(f"new {self.new} must be from 0 to 1: a part of all requests")


@dataclass(frozen=True, kw_only=True)
class House:
    """Of a server that is started for the scenario.

    rank, targets: of its adapters, all linears unless told. flags: of `lorikeet serve`.
    limits: tenant -> what the server's file of tenants says of it beside its weight.
    """

    rank: int = 8
    targets: tuple[str, ...] = ()
    flags: dict[str, str] = field(default_factory=dict)
    limits: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """baseline: what another run before has instead, in the workload; figures then have `_ratio`s to it.

    focus: the tenant whose requests alone are measured, and alone are sent in a baseline that says no more.
    """

    name: str
    summary: str
    workload: Spec
    objective: Objective = field(default_factory=Objective)
    bars: dict[str, Bar] = field(default_factory=dict)
    house: House = field(default_factory=House)
    focus: str = ""
    baseline: Spec | None = None
    actions: tuple[Action, ...] = ()

    @property
    def kills(self) -> bool:
        """Whether it does what is only done to a server of one's own."""
        return any(action.kind == KILL for action in self.actions)


def read_scenario(name: str, scale: str) -> Scenario:
    """One of ours by name, or a file. The table that is named like the scale is laid over the others."""
    file = FILES / f"{name}.toml" if name in names() else Path(name)
    if not file.is_file():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise LoadTestError(f"there is no scenario and no file {name}{hint} There are {', '.join(names())}.")
    table = read_toml(file)
    scales = {each: table.pop(each, {}) for each in SCALES[1:]}
    table = merge(table, scales.get(scale, {}))
    return _build(table, file)


def names() -> list[str]:
    return sorted(file.stem for file in FILES.glob("*.toml"))


def _build(table: dict[str, Any], file: Path) -> Scenario:
    baseline = table.pop("baseline", None)
    if not isinstance(table.setdefault("workload", {}), dict):
        raise LoadTestError(f"{file}: workload: must be a table")
    table["workload"]["name"] = table.setdefault("name", file.stem)
    if baseline is not None:
        table["baseline"] = merge(table["workload"], {"name": f"{table['name']}, baseline", **baseline})
    try:
        return build(Scenario, table)
    except LoadTestError as error:
        raise LoadTestError(f"{file}: {error}") from error
