"""Shares of a contended engine, counted in tokens: the scheduler as it is, the device a formality."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.blocks import BlockPool
from server.engine.host_cache import HostCache
from server.engine.line import COLD_TURNS, Line
from server.engine.messages import Sampling, Submit
from server.engine.queue import FairQueue
from server.engine.sampler import Sampled
from server.engine.scheduler import Scheduler
from server.engine.sequence import Sequence
from server.engine.slots import AdapterSlots
from tests.server.engine.test_books import Reader, blob

MAX_RUNNING = 8
STEP_TOKENS = 64


class World:
    """Tenants who always want more, and an engine that answers everything with token 7."""

    def __init__(
        self, num_slots: int = 64, max_running: int = MAX_RUNNING, step_tokens: int = STEP_TOKENS
    ) -> None:
        self.slots = AdapterSlots(num_slots, HostCache(Reader(), max_bytes=1000 * blob().num_bytes))
        self.max_running = max_running
        self.scheduler = Scheduler(BlockPool(512, 16), self.slots, max_running, step_tokens)
        self.served: Counter[str] = Counter()
        self.waits: dict[str, list[int]] = defaultdict(list)
        self._ids = count(1)
        self._asked: dict[int, tuple[str, int]] = {}
        self._steps = 0

    def ask(
        self,
        tenant: str,
        adapter: str = "",
        prompt: int = 20,
        answer: int = 20,
        **options: Any,
    ) -> int:
        request = Submit(
            id=next(self._ids),
            tenant=tenant,
            adapter=adapter,
            tokens=[3] * prompt,
            sampling=Sampling(max_new_tokens=answer),
            arrived_at=0.0,
            **options,
        )
        self._asked[request.id] = (tenant, self._steps)
        self.scheduler.add(request)
        return request.id

    def step(self) -> list[int]:
        """Ids of the sequences that got a token."""
        self.slots.supply.poll()
        chosen = self.scheduler.schedule()
        for choice in chosen:
            self.served[choice.sequence.request.tenant] += choice.num_tokens + choice.samples
        self.scheduler.begin(chosen)
        sampled = {c.sequence.id: Sampled(7, None) for c in chosen if c.samples}
        tokens = self.scheduler.commit(chosen, sampled)
        self.scheduler.check()
        self._steps += 1
        for token in tokens:
            if token.started is not None:
                tenant, asked_at = self._asked[token.id]
                self.waits[tenant].append(self._steps - asked_at)
        return [token.id for token in tokens]

    def run(self, steps: int, refill: Callable[[], None]) -> None:
        for _ in range(steps):
            refill()
            self.step()

    def waiting(self, tenant: str) -> int:
        return sum(sequence.request.tenant == tenant for sequence in self.scheduler.queue)

    def shares(self) -> dict[str, float]:
        total = sum(self.served.values())
        return {tenant: tokens / total for tenant, tokens in self.served.items()}


MakeWorld = Callable[..., World]


def long(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.fixture
def make_world() -> Iterator[MakeWorld]:
    made: list[World] = []

    def make(**options: int) -> World:
        made.append(World(**options))
        return made[-1]

    yield make
    for world in made:
        world.slots.close()


@pytest.mark.parametrize(
    ("num_adapters", "lengths", "steps"),
    [
        (1, (5, 50), 600),
        (50, (60, 10), 600),
        *(long(each, lengths, 3000) for each in (1, 50) for lengths in ((20, 20), (60, 10), (5, 50))),
    ],
)
def test_a_flood_gets_no_more_than_its_share(
    make_world: MakeWorld, num_adapters: int, lengths: tuple[int, int], steps: int
) -> None:
    """A hundred requests of one tenant for each of the other, over one adapter or fifty."""
    world = make_world()
    numbers = count()

    def refill() -> None:
        while world.waiting("flood") < 200:
            world.ask("flood", f"flood-{next(numbers) % num_adapters}", *lengths)
        while world.waiting("quiet") < 2:
            world.ask("quiet", "quiet-0", 20, 20)

    world.run(steps, refill)
    assert abs(world.shares()["quiet"] - 0.5) < 0.025, world.shares()


def five_tenants(
    world: World, load: float, flood: bool, steps: int, answer: int = 20, adapters: bool = False
) -> list[int]:
    """Each asks at random for so much of its share; a flood: one of them for all it can get.

    Returns how long the others waited for their first tokens, in steps and in order.
    """
    draw, rate = random.Random(1), load * world.max_running / (answer + 1) / 5

    def refill() -> None:
        for tenant in ("t1", "t2", "t3", "t4", "loud"):
            if draw.random() < rate:
                world.ask(tenant, tenant if adapters else "", answer=answer)
        while flood and world.waiting("loud") < 100:
            world.ask("loud", "loud" if adapters else "", answer=answer)

    world.run(steps, refill)
    return sorted(wait for tenant, waits in world.waits.items() if tenant != "loud" for wait in waits)


@pytest.mark.parametrize("steps", [700, long(2000)])
def test_who_asks_for_a_fair_share_does_not_feel_a_flood(make_world: MakeWorld, steps: int) -> None:
    """A hundred requests of one tenant always wait."""
    before = five_tenants(make_world(), 0.95, flood=False, steps=steps, adapters=True)
    after = five_tenants(make_world(), 0.95, flood=True, steps=steps, adapters=True)
    assert after[len(after) * 99 // 100] <= 1.2 * before[len(before) * 99 // 100]
    # Who asks for less than its share gets all of it.
    assert len(after) >= 0.95 * len(before)


@pytest.mark.parametrize(("answer", "steps"), [(20, 600), long(20, 2000), long(100, 4000)])
def test_a_flood_gives_back_what_the_others_left_idle(make_world: MakeWorld, answer: int, steps: int) -> None:
    """Also to who asks for more than its share in a burst, and was served less."""
    calm, flooded = (make_world(max_running=32, step_tokens=512) for _ in range(2))
    before = five_tenants(calm, 0.5, flood=False, steps=steps, answer=answer)
    after = five_tenants(flooded, 0.5, flood=True, steps=steps, answer=answer)
    assert len(after) == len(before) > 200
    assert before[len(before) * 99 // 100] == after[len(after) * 99 // 100] == 1
    # And the device is busier than without the flood: nothing is kept back for those who may come.
    assert sum(flooded.served.values()) > 1.4 * sum(calm.served.values())


def test_the_newest_is_sent_back_and_everybody_comes_to_an_end(make_world: MakeWorld) -> None:
    world = make_world(step_tokens=512)
    flood = [world.ask("flood", answer=50) for _ in range(2 * MAX_RUNNING)]
    assert world.step() == flood[:MAX_RUNNING]
    late = [world.ask("late", answer=50) for _ in range(2)]
    assert sorted(world.step()) == [*flood[: MAX_RUNNING - 1], late[0]]
    ended: list[int] = []
    while not world.scheduler.is_idle():
        live = set(world.scheduler._by_id)
        world.step()
        ended += sorted(live - set(world.scheduler._by_id))
    assert sorted(ended) == sorted(flood + late)
    assert ended[: MAX_RUNNING - 3] == flood[: MAX_RUNNING - 3]


@pytest.mark.parametrize("lengths", [(20, 20), long((60, 10)), long((5, 50))])
def test_tenants_who_always_ask_seldom_send_each_other_back(
    make_world: MakeWorld, lengths: tuple[int, int]
) -> None:
    world = make_world()

    def refill() -> None:
        while world.waiting("one") < 10:
            world.ask("one", "", *lengths)
        while world.waiting("two") < 2:
            world.ask("two", "", 20, 20)

    world.run(1500, refill)
    assert world.scheduler.num_preemptions < 0.1 * sum(map(len, world.waits.values()))


@pytest.mark.parametrize("steps", [1000, long(4000)])
def test_weights_are_shares(make_world: MakeWorld, steps: int) -> None:
    world = make_world()
    weights = {"one": 1.0, "two": 2.0, "five": 5.0}

    def refill() -> None:
        for tenant, weight in weights.items():
            while world.waiting(tenant) < 10:
                world.ask(tenant, tenant, weight=weight)

    world.run(steps, refill)
    for tenant, weight in weights.items():
        fair = weight / sum(weights.values())
        assert abs(world.shares()[tenant] - fair) < 0.05 * fair, world.shares()


def test_nobody_waits_for_a_flood_whose_adapters_do_not_fit(make_world: MakeWorld) -> None:
    """Fifty cold adapters over four slots: the one that asks now and then is served at once."""
    world = make_world(num_slots=4)
    numbers = count()

    def refill() -> None:
        while world.waiting("flood") < 200:
            world.ask("flood", f"flood-{next(numbers) % 50}")
        if not world.waiting("quiet") and next(numbers) % 10 == 0:
            world.ask("quiet", "", answer=5)

    world.run(700, refill)
    assert len(world.waits["quiet"]) > 20
    alone = make_world()
    alone.ask("quiet", "", answer=5)
    while not alone.waits["quiet"]:
        alone.step()
    # A place among the running ones comes free within an answer of the flood.
    assert sorted(world.waits["quiet"])[len(world.waits["quiet"]) * 95 // 100] <= alone.waits["quiet"][0] + 20


def test_an_idle_tenant_takes_nothing_from_the_others(make_world: MakeWorld) -> None:
    world = make_world()
    asking = ["busy"]

    def refill() -> None:
        for tenant in asking:
            while world.waiting(tenant) < 4:
                world.ask(tenant)

    world.run(200, refill)
    assert world.shares() == {"busy": 1.0}, "what nobody else wants is not kept back"
    # It saved nothing up while it was away: from now on, half.
    asking.append("late")
    world.served.clear()
    world.run(700, refill)
    assert abs(world.shares()["late"] - 0.5) < 0.025


def test_a_tenants_own_priorities_come_first_and_cost_others_nothing(make_world: MakeWorld) -> None:
    world = make_world()
    for _ in range(40):
        world.ask("acme", priority=0)
        world.ask("other")
    urgent = [world.ask("acme", priority=5) for _ in range(3)]
    seen: list[int] = []
    while not set(urgent) <= set(seen):
        seen += world.step()
    assert len(world.waits["acme"]) <= MAX_RUNNING + len(urgent)
    while world.waiting("other") > 5:
        world.step()
    assert abs(world.shares()["acme"] - 0.5) < 0.05


def test_tenants_who_come_once_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one is always busy, so that the queue is never idle."""
    monkeypatch.setattr("server.engine.queue.MAX_IDLE", 50)
    queue = FairQueue()
    queue.push(sequence("", 0, tenant="busy"))
    for number in range(500):
        once = sequence("", number + 1, tenant=f"t{number}")
        queue.push(once)
        queue.take(once)
        queue.charge(once.request.tenant, 10)
        queue.leave(once.request.tenant)
        queue.charge("busy", 10)
        assert len(queue._counters) <= 60
    assert len(queue._shares) == 1


def test_a_tenants_adapters_take_turns() -> None:
    line = Line()
    for number in range(30):
        line.push(sequence("busy", number))
    late = sequence("rare", 100)
    line.push(late)
    first = [s.request.adapter for s in line.in_turn(lambda adapter: True)]
    assert first[:3] == ["busy", "rare", "busy"]


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=60), st.sets(st.sampled_from("abcd")))
def test_a_cold_adapter_is_passed_over_only_so_often(adapters: list[str], resident: set[str]) -> None:
    """As if all that is given out started; however many warm ones come behind it."""
    line = Line()
    for number, adapter in enumerate(adapters):
        line.push(sequence(adapter, number))
    passed: Counter[str] = Counter()
    for _ in adapters:
        head = next(line.in_turn(resident.__contains__))
        line.take(head)
        waiting = {s.request.adapter for s in line}
        waiting.discard(head.request.adapter)
        passed = Counter({adapter: passed[adapter] + 1 for adapter in waiting})
        assert all(n <= COLD_TURNS + 4 for n in passed.values())
        line.push(sequence("a" if "a" in resident else head.request.adapter, 1000))
    assert len(line) == len(adapters)


def sequence(adapter: str, number: int, tenant: str = "t") -> Sequence:
    return Sequence.of(
        Submit(id=number, tenant=tenant, adapter=adapter, tokens=[1], sampling=Sampling(), arrived_at=0.0)
    )
