"""What became of each request, and of all of them in one run."""

import math
from array import array
from dataclasses import dataclass, field

from loadtests.workload.events import Request

OK = "ok"
UNFINISHED = "unfinished"


@dataclass(slots=True)
class Record:
    """Times are seconds after the run's start, on one clock; nan where it never came to that.

    times, counts: of every message that brought tokens, when it came and how many.
    outcome: `ok`, a status in lower case, or `unfinished` if the driver stopped waiting.
    load_seconds: that the request waited for its adapter by the server's word; nan where it says nothing.
    """

    index: int
    tenant: str
    adapter: str
    prompt_tokens: int
    asked_tokens: int
    scheduled: float
    sent: float = math.nan
    end: float = math.nan
    outcome: str = UNFINISHED
    reason: str = ""
    times: "array[float]" = field(default_factory=lambda: array("d"))
    counts: "array[int]" = field(default_factory=lambda: array("I"))
    load_seconds: float = math.nan
    version: str = ""
    digest: str = ""
    session: str = ""

    @classmethod
    def of(cls, request: Request) -> "Record":
        return cls(
            request.index,
            request.tenant,
            request.adapter,
            request.prompt_tokens,
            request.answer_tokens,
            request.at,
            session=request.session,
        )

    @property
    def is_ok(self) -> bool:
        return self.outcome == OK

    @property
    def tokens(self) -> int:
        """Answered so far."""
        return sum(self.counts)

    @property
    def is_cold(self) -> bool | None:
        """Whether its adapter had to be brought to the device first; None for the base or an unsaid one."""
        return None if not self.adapter or math.isnan(self.load_seconds) else self.load_seconds > 0

    @property
    def is_cut_off(self) -> bool:
        """Whether the driver stopped waiting for its end."""
        return self.outcome == UNFINISHED and not math.isnan(self.end)

    @property
    def waited(self) -> float:
        """Seconds to the first token; where none had come when it was cut off, to then: it took no less."""
        return self.end - self.scheduled if self.is_cut_off and not self.times else self.first_token

    @property
    def first_token(self) -> float:
        """Seconds from when the request was due, not from when it was sent: a late driver counts too."""
        return self.times[0] - self.scheduled if self.times else math.nan

    @property
    def latency(self) -> float:
        """Seconds from when the request was due to its last message."""
        return self.end - self.scheduled

    @property
    def lateness(self) -> float:
        """Seconds that the driver itself sent it late."""
        return self.sent - self.scheduled

    @property
    def per_token(self) -> float:
        """Mean seconds between tokens after the first message; nan if all came in it."""
        after = self.tokens - self.counts[0] if self.counts else 0
        return (self.times[-1] - self.times[0]) / after if after else math.nan


@dataclass(slots=True)
class UploadRecord:
    tenant: str
    adapter: str
    scheduled: float
    end: float = math.nan
    outcome: str = UNFINISHED
    reason: str = ""


@dataclass(slots=True)
class MetricSample:
    """One look at the server's metrics: seconds after the start, values, digests on the device."""

    at: float
    values: dict[str, float]
    resident: tuple[str, ...] = ()


@dataclass(slots=True)
class Shift:
    """An alias pointed anew, called at `begun` and in force at `done`, in seconds after the start.

    parts: of the requests that each role is to get; roles: which version (`name@2`) has which.
    """

    begun: float
    done: float
    parts: dict[str, float]
    roles: dict[str, str]


@dataclass
class Run:
    """duration: in which requests were due; started_at: of the epoch.

    cpu_seconds, processes: of those of the driver that send requests; waited_seconds: that they had no core,
    nan where nobody says.
    """

    name: str
    target: str
    seed: int
    duration: float
    started_at: float
    records: list[Record]
    uploads: list[UploadRecord] = field(default_factory=list)
    metrics: list[MetricSample] = field(default_factory=list)
    shifts: list[Shift] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    waited_seconds: float = math.nan
    processes: int = 1
