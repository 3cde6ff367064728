"""The driver measured against a server whose every delay is known.

The server writes down when it gave out each message, on the same clock: what a driver without any time of its
own would have seen. It has one core and the driver the others, so that neither takes the other's time.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from loadtests.drive.cores import beside
from loadtests.drive.fleet import DriveConfig, drive
from loadtests.drive.grpc_target import GrpcTarget
from loadtests.drive.records import Record, Run
from loadtests.drive.target import Target
from loadtests.fake import Fake, Script, faking
from loadtests.measure.measures import inter_token
from loadtests.measure.percentiles import QUANTILES, percentile
from loadtests.workload import Answers, Arrivals, Popularity, Request, Spec, Workload, make
from server.engine.config import COUNT, check_options, option

RELATIVE, ABSOLUTE_SECONDS = 0.02, 0.001
# What the driver may add to the time of a token at p99, and what a core of it must be able to read.
GOAL_SECONDS, GOAL_TOKENS = 0.001, 3000
# Of the overloaded server: how many it answers at once, and how much more is asked of it than it can do.
CAPACITY, OVERLOAD = 4, 1.5


@dataclass(frozen=True, kw_only=True)
class SelfTestOptions:
    protocol: str = option(
        "grpc", "grpc, or http for the completions of OpenAI's API", choices=("grpc", "http")
    )
    rate: float = option(50.0, "requests a second", bounds=(0.1, float("inf")))
    duration: float = option(30.0, "seconds", bounds=(0.1, float("inf")))
    tokens: int = option(64, "tokens of an answer, each a message", bounds=COUNT)
    processes: int = option(1, "of the driver", bounds=COUNT)
    json: str = option("", "file for all figures")

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Agreement:
    """One percentile in seconds: by the server's book, and by the driver's records."""

    figure: str
    truth: float
    measured: float

    @property
    def is_close(self) -> bool:
        error = abs(self.measured - self.truth)
        return error <= max(RELATIVE * self.truth, ABSOLUTE_SECONDS)


@dataclass(frozen=True)
class Overhead:
    """received: seconds from when the server gave a message out to its record, the way between them included.

    server_late: that the server gave messages out after its script's time, which is in no other figure.
    waited_part: of the run, in which the driver could have worked and had no core; nan where nobody says.
    """

    received: np.ndarray
    server_late: np.ndarray
    sent_late: np.ndarray
    waited_part: float
    tokens_per_second: float
    tokens_per_core: float

    @property
    def p99(self) -> float:
        return float(np.quantile(self.received, 0.99))


@dataclass(frozen=True)
class Queueing:
    """Median and longest first token in seconds of a server that is asked for more than it can do."""

    open_loop: tuple[float, float]
    closed_loop: tuple[float, float]


def accuracy(options: SelfTestOptions) -> tuple[list[Agreement], Overhead]:
    script = Script(first_ms=40.0, sigma=0.5, token_ms=10.0)
    run, fake, start = _drive(options, script, _workload(options))
    records = [record for record in run.records if record.is_ok]
    truths = [_truth(record, fake, start) for record in records]
    server_late = np.concatenate([_server_late(record, fake, script) for record in records])
    return _agreements(records, truths), _overhead(run, records, truths, server_late)


def _workload(options: SelfTestOptions) -> Workload:
    spec = Spec(
        arrivals=Arrivals(rate=options.rate, duration=options.duration),
        popularity=Popularity(adapters=4),
        answers=Answers(tokens=options.tokens),
    )
    return make(spec)


def _drive(options: SelfTestOptions, script: Script, workload: Workload) -> tuple[Run, Fake, float]:
    starts: list[float] = []
    with faking(script, options.protocol) as fake:
        config = DriveConfig(processes=options.processes)
        with beside(fake.pid):
            run = drive(workload, _target(options, fake), config, begun=starts.append)
    return run, fake, starts[0]


def _target(options: SelfTestOptions, fake: Fake) -> Target:
    if options.protocol == "grpc":
        return GrpcTarget(fake.address)
    from loadtests.drive.http_target import HttpTarget

    return HttpTarget(f"http://{fake.address}")


def _truth(record: Record, fake: Fake, start: float) -> Record:
    """The same answer as the server's book has it."""
    truth = replace(record, times=record.times[:0])
    truth.times.extend(at - start for at in fake.book[record.index]["sent"])
    truth.end = truth.times[-1]
    return truth


def _server_late(record: Record, fake: Fake, script: Script) -> np.ndarray:
    played = fake.book[record.index]
    due = [offset for offset, _ in script.offsets(record.index, record.asked_tokens)]
    late: np.ndarray = np.asarray(played["sent"]) - played["turn"] - np.asarray(due)
    return late


def _agreements(records: list[Record], truths: list[Record]) -> list[Agreement]:
    kinds: dict[str, Callable[[list[Record]], np.ndarray]] = {
        "first token": lambda found: np.asarray([record.first_token for record in found]),
        "between tokens": inter_token,
        "whole answer": lambda found: np.asarray([record.latency for record in found]),
    }
    agreements = [
        Agreement(f"{name} p{q * 100:g}", percentile(values(truths), q), percentile(values(records), q))
        for name, values in kinds.items()
        for q in QUANTILES
    ]
    return [agreement for agreement in agreements if not np.isnan(agreement.truth)]


def _overhead(run: Run, records: list[Record], truths: list[Record], server_late: np.ndarray) -> Overhead:
    received = [np.asarray(r.times) - np.asarray(t.times) for r, t in zip(records, truths, strict=True)]
    tokens = sum(record.tokens for record in records)
    return Overhead(
        np.concatenate(received),
        server_late,
        np.asarray([record.lateness for record in records]),
        run.waited_seconds / max(record.end for record in records),
        tokens / max(record.end for record in records),
        tokens / run.cpu_seconds,
    )


def overloaded(options: SelfTestOptions) -> Queueing:
    """The same server asked when requests are due, and by callers who wait for their answers."""
    script = Script(first_ms=20.0, token_ms=5.0, capacity=CAPACITY)
    seconds = script.first_ms / 1e3 + (options.tokens - 1) * script.token_ms / 1e3
    rate = OVERLOAD * CAPACITY / seconds
    workload = _workload(replace(options, rate=rate, duration=min(options.duration, 10.0)))
    run, _, _ = _drive(options, script, workload)
    with faking(script, options.protocol) as fake:
        waited = asyncio.run(_closed_loop(_target(options, fake), workload))
    return Queueing(_middle_and_end(run.records), _middle_and_end(waited))


def _middle_and_end(records: list[Record]) -> tuple[float, float]:
    found = [record.first_token for record in records if record.is_ok]
    return float(np.median(found)), float(np.max(found))


async def _closed_loop(target: Target, workload: Workload) -> list[Record]:
    """As many callers as the server answers at once, each asking again when it has its answer."""
    connection, loop = target.connect(), asyncio.get_running_loop()
    records: list[Record] = []

    async def call(requests: list[Request]) -> None:
        for request in requests:
            record = replace(Record.of(request), scheduled=loop.time())
            await connection.ask(request, [9] * request.prompt_tokens, record, loop.time)
            records.append(record)

    try:
        await connection.describe()
        await asyncio.gather(*(call(list(workload.requests[n::CAPACITY])) for n in range(CAPACITY)))
    finally:
        await connection.close()
    return records
