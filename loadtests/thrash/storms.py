"""More and more adapters over the same room, asked for alike, at the instants of one Poisson process."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests.drive.fleet import DriveConfig, drive
from loadtests.drive.grpc_target import GrpcTarget
from loadtests.drive.records import Run
from loadtests.figures import LoadTestError
from loadtests.measure.measures import measure
from loadtests.scenario.place import Place
from loadtests.scenario.provision import provision
from loadtests.thrash.config import ThrashConfig
from loadtests.workload.events import Workload
from loadtests.workload.make import make
from loadtests.workload.spec import Answers, Arrivals, Popularity, Prompts, Spec
from lorikeet import Client

# The first requests of a server pay for what is compiled and loaded once.
WARM_SECONDS = 3.0
# In seconds, for answers after the last request.
PATIENCE = 300.0


@dataclass(frozen=True)
class Storm:
    """Milliseconds as a client sees them, and tokens a second from the first request to the last token."""

    adapters: int
    requests: int
    first_p50: float
    first_p99: float
    inter_p99: float
    throughput: float

    @classmethod
    def of(cls, adapters: int, run: Run) -> "Storm":
        found = measure(run)
        return cls(
            adapters=adapters,
            requests=found.requests,
            first_p50=found.first_token.p50 * 1e3,
            first_p99=found.first_token.p99 * 1e3,
            inter_p99=found.inter_token.p99 * 1e3,
            throughput=throughput(run),
        )


def play_storms(config: ThrashConfig, target: GrpcTarget, template: Path) -> list[Storm]:
    """One after another, each against its own number of adapters, after all are in host memory.

    What is measured is the want of device memory, and not how fast a disk gives files for the first time.
    """
    loads = [workload_of(config, count) for count in config.counts]
    warm = replace(workload_of(config, config.room, WARM_SECONDS), seed=0)
    provision([warm, *loads], Place(target, template, metrics=""))
    with Client(target.address) as client:
        for version in client.adapters.list():
            client.adapters.warm(version.id, tier="host")
    asked(warm, target)
    return [Storm.of(count, asked(load, target)) for count, load in zip(config.counts, loads, strict=True)]


def workload_of(config: ThrashConfig, count: int, seconds: float = 0.0) -> Workload:
    """The same instants for every count; prompts that none of the others has left in the prefix cache."""
    spec = Spec(
        name=f"{count} adapters",
        arrivals=Arrivals(rate=config.rate, duration=seconds or config.seconds),
        popularity=Popularity(kind="uniform", adapters=count),
        prompts=Prompts(kind="fixed", tokens=config.prompt),
        answers=Answers(kind="fixed", tokens=config.answer),
    )
    return replace(make(spec), seed=count)


def asked(
    workload: Workload,
    target: GrpcTarget,
    processes: int = 1,
    begun: Callable[[float], None] | None = None,
) -> Run:
    """begun: hears the start on the monotonic clock. Raises LoadTestError unless all is answered in full."""
    config = DriveConfig(processes=processes, drain_seconds=PATIENCE)
    run = drive(workload, target, config, begun=begun)
    bad = [record for record in run.records if not record.is_ok or record.tokens != record.asked_tokens]
    if bad:
        what = f"the first: {bad[0].outcome} after {bad[0].tokens} tokens. {bad[0].reason}"
        raise LoadTestError(f"{len(bad)} of {len(run.records)} requests were not answered; {what}")
    return run


def throughput(run: Run) -> float:
    ended = max(record.end for record in run.records)
    return sum(record.tokens for record in run.records) / (ended - run.records[0].scheduled)
