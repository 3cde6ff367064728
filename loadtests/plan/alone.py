"""`python -m loadtests.plan.alone`: plans held against an engine that has the machine to itself.

Steps and runs are both timed by the processor time of the engine's thread, and the time in which it has
nothing to do is skipped. Who else takes the cores is in neither; how fast a core is at the moment still is,
so steps are measured before and after each run.
"""

import argparse
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict

import torch

from loadtests.drive.prompts import Prompts as Drawn
from loadtests.drive.records import OK, Record, Run
from loadtests.figures import LoadTestError
from loadtests.plan.command import against, print_errors
from loadtests.plan.estimate import room_of
from loadtests.plan.options import PlanOptions
from loadtests.plan.steps import StepTable
from loadtests.step import Results, measure
from loadtests.step_bench import Bench
from loadtests.step_config import StepConfig
from loadtests.workload import Answers, Arrivals, Popularity, Prompts, Spec, Workload, make
from server.engine.engine import Engine
from server.engine.messages import Sampling, Submit

STEPS = StepConfig(
    model="tiny",
    device="cpu",
    quantizations="none",
    mixes="none,all",
    batches="1,2,4,8,16",
    prompt=48,
    long=48,
    prefill=384,
    check=False,
)
PLAN = PlanOptions(model="tiny", quantization="none", memory=4.0, front_ms=0.0, max_running=16)
# Ids below were the benchmark's.
FIRST_ID = 1_000_000


class OwnTime:
    """Seconds that this thread has computed, and those that were skipped."""

    def __init__(self) -> None:
        self._skipped = -time.thread_time()

    def __call__(self) -> float:
        return time.thread_time() + self._skipped

    def skip_to(self, instant: float) -> None:
        self._skipped += max(0.0, instant - self())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", default="2,5,10", help="requests a second, with commas between them")
    parser.add_argument("--duration", type=float, default=60.0, help="seconds of each run")
    args = parser.parse_args(arguments)
    # The engine's thread computes all: its own time is then the step's.
    torch.set_num_threads(1)
    errors, (bench, before) = {}, _measured()
    for rate in args.rates.split(","):
        run = play(bench.engine, _workload(float(rate), args.duration), bench.vocab_size)
        bench, after = _measured()
        for name, table in (("before", before), ("after", after)):
            errors[f"{rate} a second, steps {name}"] = against(PLAN, table, room_of(PLAN), run)
        before = after
    print_errors(errors)


def _measured() -> tuple[Bench, StepTable]:
    results = Results("CPU, time of its own", 1.0)
    bench = measure(STEPS, PLAN.quantization, results, OwnTime())
    return bench, StepTable.of(asdict(results), PLAN.quantization)


def _workload(rate: float, duration: float) -> Workload:
    return make(
        Spec(
            arrivals=Arrivals(rate=rate, duration=duration),
            popularity=Popularity(kind="uniform", adapters=8),
            prompts=Prompts(tokens=48),
            answers=Answers(tokens=32),
        )
    )


def play(engine: Engine, workload: Workload, vocab_size: int) -> Run:
    """Each request is given to the engine when it is due. Raises LoadTestError if one fails."""
    records = [Record.of(request) for request in workload.requests]
    prompts = Drawn(workload.seed, workload.shared, vocab_size)
    submits = [_submit(record, prompts(r)) for record, r in zip(records, workload.requests, strict=True)]
    due, clock = deque(zip(records, submits, strict=True)), OwnTime()
    while due or not engine.is_idle:
        if engine.is_idle:
            clock.skip_to(due[0][0].scheduled)
        while due and due[0][0].scheduled <= clock():
            record, submit = due.popleft()
            record.sent = clock()
            engine.give(submit)
        _step(engine, records, clock)
    return Run(workload.name, "an engine alone", workload.seed, workload.duration, time.time(), records)


def _submit(record: Record, prompt: list[int]) -> Submit:
    return Submit(
        id=record.index + FIRST_ID,
        tenant=record.tenant,
        # The benchmark's adapters are called by numbers from 1.
        adapter=str(int(record.adapter.rpartition("-")[2]) + 1),
        tokens=prompt,
        sampling=Sampling(max_new_tokens=record.asked_tokens),
        arrived_at=time.monotonic(),
    )


def _step(engine: Engine, records: Sequence[Record], clock: OwnTime) -> None:
    report = engine.step()
    if report.failures:
        raise LoadTestError(report.failures[0].message)
    now = clock()
    for token in report.tokens:
        record = records[token.id - FIRST_ID]
        record.times.append(now)
        record.counts.append(1)
        record.end = now
        record.outcome = OK


if __name__ == "__main__":
    main()
