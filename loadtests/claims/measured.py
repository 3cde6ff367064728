"""What a run has measured, part by part, and the file that keeps it between runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from loadtests.claims.costs import Flops, Memory
from loadtests.claims.learn import Trial
from loadtests.claims.scale import Scale
from loadtests.concurrent import Speed
from loadtests.figures import LoadTestError, finite
from loadtests.merge_routes import Route


@dataclass(frozen=True, slots=True)
class Speeds:
    """Over the plain base, PEFT's loop first; nf4: the same loop and one adapter over NF4."""

    plain: list[Speed]
    nf4: list[Speed]


@dataclass(frozen=True, slots=True)
class Measured:
    """Parts by name; one that was not measured is empty."""

    ranks: list[Trial] = field(default_factory=list)
    placement: list[Trial] = field(default_factory=list)
    batches: list[Trial] = field(default_factory=list)
    operations: list[Flops] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    merge: list[Route] = field(default_factory=list)
    speed: list[Speeds] = field(default_factory=list)


PARTS = tuple(part.name for part in fields(Measured))


@dataclass(frozen=True, slots=True)
class Taken:
    """How long a part took, where, and the digest of what its figures depend on."""

    seconds: float
    device: str
    inputs: str = ""


@dataclass(frozen=True, slots=True)
class Story:
    """taken: for each part that was measured."""

    scale: Scale
    measured: Measured = field(default_factory=Measured)
    taken: dict[str, Taken] = field(default_factory=dict)

    def has(self, part: str, inputs: str) -> bool:
        """Whether the part was measured of the same inputs."""
        return part in self.taken and self.taken[part].inputs == inputs

    def with_part(self, part: str, found: Any, taken: Taken) -> Story:
        measured = replace(self.measured, **{part: found})
        return Story(self.scale, measured, {**self.taken, part: taken})


def read_story(file: Path, scale: Scale) -> Story:
    """Empty without a file.

    Raises `LoadTestError` for a file that is none, or of another scale: parts are judged together.
    """
    if not file.exists():
        return Story(scale)
    try:
        told = msgspec.json.decode(file.read_bytes(), type=Story)
    except msgspec.DecodeError as error:
        raise LoadTestError(
            f"{file} is not what this bench writes ({error}): choose another --out"
        ) from error
    if told.scale != scale:
        raise LoadTestError(f"{file} was measured at another scale: choose another --out, or remove it")
    return told


def write_story(file: Path, story: Story, outcome: dict[str, object]) -> None:
    """`outcome`: what was made of the parts; it is not read again."""
    whole = {**outcome, **asdict(story)}
    file.write_text(json.dumps(finite(whole), indent=2) + "\n")
