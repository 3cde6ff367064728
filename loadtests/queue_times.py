"""What a step's schedule costs when so many tenants wait, while the first of them has taken all places.

`python -m loadtests.queue_times`: microseconds of the processor for a step in the median, to see which places
go back to whom (recall) and for all that the scheduler decides.
"""

import argparse
import time
from itertools import count, cycle
from statistics import median

from server.engine.blocks import BlockPool
from server.engine.host_cache import HostCache
from server.engine.messages import Sampling, Submit
from server.engine.sampler import Sampled
from server.engine.scheduler import Scheduler
from server.engine.sequence import Chosen
from server.engine.slots import AdapterSlots
from server.model.adapter import AdapterBlob, Allocate

PLACES, STEP_TOKENS, ANSWER, PROMPT = 64, 2048, 50, 16


def _read(digest: str, allocate: Allocate) -> AdapterBlob:
    raise AssertionError("requests of the base read no adapters")


class Timed(Scheduler):
    """Knows what its steps took, in seconds of this thread."""

    def __init__(self, blocks: BlockPool, slots: AdapterSlots) -> None:
        super().__init__(blocks, slots, PLACES, STEP_TOKENS)
        self.recalls: list[float] = []
        self.schedules: list[float] = []

    def schedule(self) -> list[Chosen]:
        began = time.thread_time()
        chosen = super().schedule()
        self.schedules.append(time.thread_time() - began)
        return chosen

    def _recall(self) -> None:
        began = time.thread_time()
        super()._recall()
        self.recalls.append(time.thread_time() - began)


class Load:
    """One tenant with more than all places, and others of whom each always has a request waiting."""

    def __init__(self, num_tenants: int) -> None:
        slots = AdapterSlots(1, HostCache(_read, max_bytes=1))
        blocks = BlockPool(PLACES * (ANSWER + PROMPT), 16)
        self.scheduler = Timed(blocks, slots)
        self._ids = count(1)
        for _ in range(2 * PLACES):
            self._ask("flood")
        self.step()
        tenants = [f"t{number}" for number in range(num_tenants)]
        for tenant in tenants:
            self._ask(tenant)
        self._next = cycle(tenants)

    def step(self) -> None:
        chosen = self.scheduler.schedule()
        self.scheduler.begin(chosen)
        sampled = {c.sequence.id: Sampled(7, None) for c in chosen if c.samples}
        for token in self.scheduler.commit(chosen, sampled):
            if token.finish:
                self._ask(next(self._next))

    def _ask(self, tenant: str) -> None:
        self.scheduler.add(
            Submit(
                id=next(self._ids),
                tenant=tenant,
                adapter="",
                tokens=[3] * PROMPT,
                sampling=Sampling(max_new_tokens=ANSWER),
                arrived_at=0.0,
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tenants", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--steps", type=int, default=1000, help="for each number of tenants")
    arguments = parser.parse_args()
    print(f"{'tenants':>8} {'recall':>10} {'schedule':>10}")
    for num_tenants in arguments.tenants:
        load = Load(num_tenants)
        for _ in range(arguments.steps):
            load.step()
        recall, schedule = (1e6 * median(each) for each in (load.scheduler.recalls, load.scheduler.schedules))
        print(f"{num_tenants:8} {recall:10.1f} {schedule:10.1f}")


if __name__ == "__main__":
    main()
