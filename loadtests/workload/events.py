"""A workload: requests and uploads with the second at which each is due."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from loadtests.figures import LoadTestError


@dataclass(frozen=True, slots=True)
class Request:
    """One question. `at`: seconds after the start; `adapter`: a name or `name@alias`, empty for the base.

    session: what an alias with several versions keeps together; empty: the request stands for itself.
    """

    index: int
    at: float
    tenant: str
    adapter: str
    prompt_tokens: int
    answer_tokens: int
    session: str = ""


@dataclass(frozen=True, slots=True)
class Upload:
    """A new version of an adapter. `variant` numbers its bytes: another number, another digest."""

    at: float
    tenant: str
    adapter: str
    variant: int


@dataclass(frozen=True)
class Workload:
    """Both by `at`. `seed` also decides the prompts' tokens, of which one adapter's first `shared` agree."""

    name: str
    seed: int
    duration: float
    shared: int
    requests: tuple[Request, ...]
    uploads: tuple[Upload, ...] = ()

    def adapters(self) -> dict[str, list[str]]:
        """Tenant -> the adapters it asks for by name and does not bring itself in time."""
        brought = {(u.tenant, u.adapter): u.at for u in self.uploads}
        asked = {(r.tenant, r.adapter) for r in self.requests if r.adapter and "@" not in r.adapter}
        wanted: dict[str, list[str]] = {}
        for tenant, adapter in sorted(asked - brought.keys()):
            wanted.setdefault(tenant, []).append(adapter)
        return wanted

    def aliased(self) -> list[tuple[str, str, str]]:
        """(tenant, name, alias) of every adapter that is asked for by an alias."""
        asked = {(r.tenant, *r.adapter.partition("@")[::2]) for r in self.requests if "@" in r.adapter}
        return sorted(asked)

    def renamed(self, names: list[str]) -> Self:
        """With adapters that are there: the first name for the first of the workload's, and round again."""
        own = sorted({r.adapter for r in self.requests if r.adapter})
        given = {adapter: names[number % len(names)] for number, adapter in enumerate(own)} | {"": ""}
        return replace(self, requests=tuple(replace(r, adapter=given[r.adapter]) for r in self.requests))

    def save(self, file: Path) -> None:
        """JSON lines: what the workload is, then an event each."""
        head = {"name": self.name, "seed": self.seed, "duration": self.duration, "shared": self.shared}
        file.write_text("".join(f"{json.dumps(line)}\n" for line in (head, *self._lines())))

    def _lines(self) -> Iterator[dict[str, Any]]:
        yield from ({"request": asdict(request)} for request in self.requests)
        yield from ({"upload": asdict(upload)} for upload in self.uploads)

    @classmethod
    def load(cls, file: Path) -> Self:
        """Raises LoadTestError for a file that `save` did not write."""
        try:
            head, *lines = map(json.loads, file.read_text().splitlines())
            requests = tuple(Request(**line["request"]) for line in lines if "request" in line)
            uploads = tuple(Upload(**line["upload"]) for line in lines if "upload" in line)
            return cls(**head, requests=requests, uploads=uploads)
        except (ValueError, KeyError, TypeError) as error:
            raise LoadTestError(f"{file} holds no workload: {error}") from error
