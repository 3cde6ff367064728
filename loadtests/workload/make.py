"""From a description and a seed to a workload."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from loadtests.figures import LoadTestError
from loadtests.workload.draw import arrival_times, draw_lengths, draw_ranks, read_trace
from loadtests.workload.events import Request, Upload, Workload
from loadtests.workload.spec import Spec


def make(spec: Spec, seed: int = 0) -> Workload:
    """The same spec and seed make the same workload on every machine."""
    clock, choice, prompt, answer, tenant, session = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(6)
    )
    rows: list[dict[str, Any]] = []
    if spec.arrivals.kind == "trace":
        rows = read_trace(Path(spec.arrivals.file))
        times = np.asarray([row["at"] for row in rows])
    else:
        times = arrival_times(spec.arrivals, clock)
    if not len(times):
        raise LoadTestError("this workload holds no request: raise its rate or its duration")
    count = len(times)
    tenants = _tenants(spec, count, tenant)
    uploads = _uploads(spec)
    drawn = {
        "at": times.tolist(),
        "tenant": tenants,
        "adapter": _adapters(spec, times.tolist(), tenants, choice, uploads),
        "prompt_tokens": draw_lengths(spec.prompts, count, prompt).tolist(),
        "answer_tokens": draw_lengths(spec.answers, count, answer).tolist(),
        "session": _sessions(spec, count, session),
    }
    requests = [
        # What a trace says of a request wins over what was drawn.
        Request(index, **{name: _told(rows, index, name, values[index]) for name, values in drawn.items()})
        for index in range(count)
    ]
    duration = spec.arrivals.duration if not rows else max(times[-1], 1e-3)
    return Workload(spec.name, seed, float(duration), spec.prompts.shared, tuple(requests), tuple(uploads))


def adapter_name(tenant: str, number: int) -> str:
    return f"load-{tenant}-{number:04d}"


def _told(rows: list[dict[str, Any]], index: int, name: str, drawn: Any) -> Any:
    return rows[index].get(name, drawn) if rows else drawn


def _tenants(spec: Spec, count: int, numbers: Generator) -> list[str]:
    shares = np.asarray([tenant.share for tenant in spec.tenants])
    chosen = numbers.choice(len(shares), size=count, p=shares / shares.sum())
    return [spec.tenants[index].name for index in chosen]


def _sessions(spec: Spec, count: int, numbers: Generator) -> list[str]:
    """Names are a tenant's own, so that each has as many sessions."""
    if not spec.sessions:
        return [""] * count
    return [f"session-{number:05d}" for number in numbers.integers(0, spec.sessions, count)]


def _uploads(spec: Spec) -> list[Upload]:
    """Churn brings a new adapter at even intervals, the tenants in turns."""
    if spec.popularity.kind != "churn":
        return []
    count = int(spec.arrivals.duration * spec.popularity.upload_rate)
    return [
        Upload(
            at=(number + 0.5) / spec.popularity.upload_rate,
            tenant=(tenant := spec.tenants[number % len(spec.tenants)].name),
            adapter=adapter_name(tenant, spec.popularity.adapters + number // len(spec.tenants)),
            variant=spec.popularity.adapters * len(spec.tenants) + number,
        )
        for number in range(count)
    ]


# Seconds after an upload is due until requests ask for what it brings.
UPLOAD_SECONDS = 2.0


def _adapters(
    spec: Spec, times: list[float], tenants: list[str], numbers: Generator, uploads: list[Upload]
) -> list[str]:
    """Ranks count from the newest adapter of a tenant that is there; without churn none is ever new."""
    ranks = draw_ranks(spec.popularity, len(times), numbers)
    newest = dict.fromkeys((tenant.name for tenant in spec.tenants), spec.popularity.adapters - 1)
    is_churn, coming, names = spec.popularity.kind == "churn", list(reversed(uploads)), []
    alias = f"@{spec.popularity.alias}" if spec.popularity.alias else ""
    for at, tenant, rank in zip(times, tenants, ranks.tolist(), strict=True):
        while coming and coming[-1].at + UPLOAD_SECONDS <= at:
            newest[coming.pop().tenant] += 1
        number = newest[tenant] - rank if is_churn else rank
        names.append(adapter_name(tenant, number) + alias if rank >= 0 else "")
    return names
