"""What can be driven: a target opens connections, a connection sends one request and fills its record."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loadtests.drive.records import Record
from loadtests.workload.events import Request


@dataclass(frozen=True)
class Served:
    """What a target says of itself. vocab_size: token ids of prompts are below it."""

    name: str
    vocab_size: int
    max_context: int


class Clock(Protocol):
    def __call__(self) -> float:
        """Seconds after the run's start."""


class Connection(Protocol):
    async def describe(self) -> Served:
        """Also waits until the target answers."""

    async def ask(self, request: Request, prompt: list[int], record: Record, clock: Clock) -> None:
        """Sends the request and fills the record until the answer's end. Fails only for what is a bug."""

    async def upload(self, tenant: str, adapter: str, folder: Path) -> str:
        """Stores an adapter; returns the outcome, `ok` or a status in lower case."""

    async def close(self) -> None: ...


class Target(Protocol):
    """Travels to the driver's processes, so it is plain data."""

    @property
    def title(self) -> str: ...

    def connect(self) -> Connection:
        """Inside the event loop that will use it."""
