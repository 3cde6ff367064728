"""What it costs that requests spread over very many adapters: tokens a second, against five of them."""

from dataclasses import dataclass, replace
from pathlib import Path

from loadtests.drive.grpc_target import GrpcTarget
from loadtests.scenario.place import Place
from loadtests.scenario.provision import provision
from loadtests.thrash.config import ThrashConfig
from loadtests.thrash.storms import asked, throughput
from loadtests.workload.events import Request, Workload
from loadtests.workload.make import adapter_name, make
from loadtests.workload.spec import Answers, Arrivals, Popularity, Prompts, Spec, Tenant

FEW = 5
# A server takes eight at once.
UPLOADS_AT_ONCE = 8


@dataclass(frozen=True)
class ZipfFigures:
    """Tokens a second of a server that has all requests from the start, over few and over many adapters."""

    adapters: int
    asked_for: int
    requests: int
    few: float
    many: float

    @property
    def kept(self) -> float:
        return self.many / self.few


def play_zipf(config: ThrashConfig, target: GrpcTarget, template: Path) -> ZipfFigures:
    """Few, many, few again: the mean of both stands for the few, so that a drift counts for neither."""
    _upload_all(config, target, template)
    few, many = _workload(config, FEW), _workload(config, config.zipf_adapters)
    warm = replace(few, requests=few.requests[: max(1, len(few.requests) // 8)], seed=0)
    asked(warm, target, config.zipf_processes)
    before, storm, after = (
        throughput(asked(replace(load, seed=seed), target, config.zipf_processes))
        for seed, load in enumerate((few, many, few), 1)
    )
    return ZipfFigures(
        adapters=config.zipf_adapters,
        asked_for=len({request.adapter for request in many.requests}),
        requests=len(many.requests),
        few=(before + after) / 2,
        many=storm,
    )


def _workload(config: ThrashConfig, count: int) -> Workload:
    """As many requests on average as told, all within a second: more than any server answers in one."""
    return make(
        Spec(
            name=f"zipf over {count}",
            arrivals=Arrivals(rate=config.zipf_requests, duration=1.0),
            popularity=Popularity(kind="zipf", adapters=count),
            prompts=Prompts(kind="fixed", tokens=config.prompt),
            answers=Answers(kind="fixed", tokens=config.answer),
        )
    )


def _upload_all(config: ThrashConfig, target: GrpcTarget, template: Path) -> None:
    """Also those that chance asks nobody for."""
    tenant = Tenant().name
    each = tuple(
        Request(number, 0.0, tenant, adapter_name(tenant, number), 1, 1)
        for number in range(config.zipf_adapters)
    )
    place = Place(target, template, metrics="")
    provision([Workload("all", 0, 1.0, 0, each)], place, at_once=UPLOADS_AT_ONCE)
