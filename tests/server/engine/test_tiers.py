"""Order, not time: who is read, copied, promised room, pinned, and who never goes. Copies land when told."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.errors import InvalidAdapter
from server.engine.arena import Extents
from server.engine.blocks import BlockPool
from server.engine.device_memory import Placed
from server.engine.host_cache import HostCache
from server.engine.host_pool import PinnedPool, PlainPool
from server.engine.messages import Pin, Sampling, Submit, Unpin, Warm
from server.engine.pins import Pins
from server.engine.sampler import Sampled
from server.engine.scheduler import Scheduler
from server.engine.slots import AdapterSlots
from server.model.adapter import AdapterBlob, Allocate
from server.news import News
from server.places import Places

ROOM = 64


@dataclass
class Landing:
    """A copy that lands when the test says so."""

    digest_size: int
    landed: bool = False

    def query(self) -> bool:
        return self.landed


@dataclass
class FakeDevice:
    """Room for `size` bytes, each adapter in one piece. Copies land at once, unless they are held up."""

    size: int = ROOM
    holds_up: bool = False
    copies: list[Landing] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._extents = Extents(self.size)

    def capacity(self) -> int:
        return self.size

    def free(self) -> int:
        return self._extents.num_free

    def fits(self, blob: AdapterBlob, without: list[Placed]) -> bool:
        extents = self._extents.copy()
        for start, length in (extent for placed in without for extent in placed.extents):
            extents.give_back(start, length)
        return extents.take([blob.num_bytes]) is not None

    def place(self, slot: int, blob: AdapterBlob, generation: int = 0) -> Placed | None:
        starts = self._extents.take([blob.num_bytes])
        if starts is None:
            return None
        self.copies.append(Landing(blob.num_bytes, not self.holds_up))
        extents = ((starts[0], blob.num_bytes),)
        return Placed(blob, blob.num_bytes, slot, generation, self.copies[-1], extents)

    def leave(self, placed: Placed) -> None:
        assert placed.landed is None, "an adapter was held before its copy had landed"

    def remove(self, placed: Placed) -> None:
        for start, length in placed.extents:
            self._extents.give_back(start, length)

    def check(self, placed: list[Placed]) -> None:
        self._extents.check([extent for each in placed for extent in each.extents])


def size_of(digest: str) -> int:
    """ "7-16" takes 16 bytes; "7" takes 8."""
    return int((digest.split("-") + ["8"])[1])


class House:
    """Slots, host memory and scheduler around a fake device, a fake clock and answers made up."""

    def __init__(
        self, num_slots: int = 8, host_bytes: int = 1 << 20, drain_after: float = 1.0, **device: int
    ) -> None:
        self.reads: list[str] = []
        self.broken: set[str] = set()
        self.now = 0.0
        self.device = FakeDevice(**device)
        self.host = HostCache(self._read, host_bytes, num_readers=1)
        self.slots = AdapterSlots(num_slots, self.host, self.device)
        self.pins = Pins(self.slots)
        self.places = Places(News())
        blocks = BlockPool(4096, 16)
        self.scheduler = Scheduler(blocks, self.slots, 64, 512, drain_after, lambda: self.now)
        self.finished: list[int] = []
        self.asked: dict[int, str] = {}
        self._ids = count(1)

    def _read(self, digest: str, allocate: Allocate) -> AdapterBlob:
        self.reads.append(digest)
        if digest in self.broken:
            raise InvalidAdapter(["it is broken"])
        return AdapterBlob(allocate(size_of(digest), torch.uint8), ())

    def submit(self, digest: str, num_tokens: int = 4, tenant: str = "t") -> int:
        number = next(self._ids)
        sampling = Sampling(max_new_tokens=num_tokens)
        self.asked[number] = digest
        self.scheduler.add(
            Submit(
                id=number, tenant=tenant, adapter=digest, tokens=[5], sampling=sampling, arrived_at=self.now
            )
        )
        return number

    def turn(self) -> None:
        """What the engine does, with every read ended that was begun."""
        self._end_reads()
        self.slots.supply.poll()
        self.pins.advance()
        chosen = self.scheduler.schedule()
        self.scheduler.begin(chosen)
        sampled = {c.sequence.id: Sampled(7, None) for c in chosen if c.samples}
        self.finished += [token.id for token in self.scheduler.commit(chosen, sampled) if token.finish]
        self.scheduler.check()
        self.tell()
        self.now += 0.1

    def tell(self) -> None:
        """What the front makes of the changes that it is told is how things are."""
        self._end_reads()
        self.places.take(self.slots.supply.take_moved(), self.pins.take_refusals())
        assert set(self.places.resident) == set(self.slots.resident())
        assert set(self.places.on_host) == set(self.host._kept)
        assert self.places.awaited == set(self.slots.supply._awaited)
        assert self.places.refusals == self.pins.refusals()

    def _end_reads(self) -> None:
        """Readers put out what stands in their way."""
        for future in list(self.host._loading.values()):
            future.exception(10)

    def turns_until(self, done: Callable[[], bool], most: int = 1000) -> int:
        for number in range(most):
            if done():
                return number
            self.turn()
        raise AssertionError(f"not done after {most} turns")

    def running(self) -> list[str]:
        return [sequence.request.adapter for sequence in self.scheduler.running]


@pytest.fixture(autouse=True)
def houses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Readers' threads end with their test."""
    made: list[HostCache] = []
    init = HostCache.__init__

    def remember(self: HostCache, *args: object, **options: object) -> None:
        init(self, *args, **options)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(HostCache, "__init__", remember)
    yield
    for host in made:
        host.close()


def test_whoever_waits_is_read_in_the_order_of_the_queue_and_once() -> None:
    house = House(num_slots=1)
    for digest in "abacbd":
        house.submit(digest, num_tokens=50)
    for _ in range(6):
        house.turn()
    assert house.reads == ["a", "b", "c", "d"]


def test_no_more_is_read_ahead_than_host_memory_holds_and_nothing_wanted_goes_for_it() -> None:
    house = House(num_slots=1, host_bytes=3 * 8)
    for digest in "abcdefg":
        house.submit(digest, num_tokens=30)
    for _ in range(20):
        house.turn()
    assert house.reads == ["a", "b", "c", "d"] and house.running() == ["a"]
    house.turns_until(lambda: len(house.finished) == 7)
    assert house.reads == list("abcdefg"), "an adapter that was waited for was read twice"


def test_copies_begin_before_there_is_a_turn_for_their_sequences() -> None:
    house = House(holds_up=True)
    house.scheduler._max_running = 1
    for digest in "abc":
        house.submit(digest)
    for _ in range(5):
        house.turn()
    assert len(house.device.copies) == 3 and house.running() == []
    for landing in house.device.copies:
        landing.landed = True
    house.turn()
    assert house.running() == ["a"]
    assert set(house.slots.resident()) == {"a", "b", "c"}


def test_a_copy_holds_its_bytes_in_host_memory_until_it_has_landed() -> None:
    house = House(holds_up=True, host_bytes=8)
    house.submit("a")
    house.turns_until(lambda: bool(house.device.copies))
    house.submit("b")
    for _ in range(5):
        house.turn()
    assert "a" in house.host
    house.device.copies[0].landed = True
    house.turn()
    house.submit("c")
    house.turns_until(lambda: "c" in house.host)
    assert "a" not in house.host


def test_an_adapter_that_is_waited_for_is_not_evicted_before_its_turn() -> None:
    house = House(num_slots=2)
    house.submit("a", num_tokens=40)
    house.turns_until(lambda: house.running() == ["a"])
    house.scheduler._max_running = 1
    house.submit("b")
    house.submit("c", tenant="u")
    for _ in range(10):
        house.turn()
    # Whoever came first to the device stays there, whatever the order is by now.
    (second,) = set(house.slots.resident()) - {"a"}
    house.turns_until(lambda: len(house.finished) == 2)
    assert house.slots.supply.num_evictions <= 1
    assert house.asked[house.finished[1]] == second or house.finished[0] != 1


def test_room_is_promised_after_the_bound_and_not_before() -> None:
    house = House(num_slots=1, drain_after=2.0)
    house.submit("hot", num_tokens=30)
    house.turns_until(lambda: house.running() == ["hot"])
    cold = house.submit("cold")
    house.turns_until(lambda: house.slots.supply.lacks_room("cold"))
    blocked = house.now
    while house.now < blocked + 1.5:
        house.submit("hot", num_tokens=2)
        house.turn()
        assert not house.slots.supply.is_closed("hot")
    assert len(house.running()) > 1
    house.turns_until(lambda: house.slots.supply.is_closed("hot"))
    late = house.submit("hot")
    house.turns_until(lambda: cold in house.finished)
    assert late not in house.finished
    house.turns_until(lambda: late in house.finished)


def test_the_least_busy_make_room_and_not_one_too_many() -> None:
    house = House(num_slots=8, size=64, drain_after=0.0)
    for digest, number in (("1-16", 3), ("2-16", 1), ("3-16", 2), ("4-8", 1)):
        for _ in range(number):
            house.submit(digest, num_tokens=60)
    house.turns_until(lambda: len(house.running()) == 7)
    house.submit("9-24")
    house.turns_until(lambda: house.slots.supply.is_closed("4-8"))
    # 8 bytes are free behind "4-8"; with "2-16" they make 32 bytes, but apart.
    assert {digest for digest in house.slots.held() if house.slots.supply.is_closed(digest)} == {
        "3-16",
        "4-8",
    }


def test_a_promise_is_kept_although_small_ones_would_fit_at_once() -> None:
    """Small adapters never end to come; without a promise the large one never finds 48 bytes free at once."""
    house = House(num_slots=16, size=64, drain_after=1.0)
    for number in range(8):
        house.submit(f"{number}", num_tokens=10 + number)
    house.turns_until(lambda: len(house.running()) == 8)
    large = house.submit("large-48", tenant="other")
    for number in range(8, 400):
        house.submit(f"{number}", num_tokens=10)
        house.turn()
        if large in house.finished:
            return
    raise AssertionError("the large adapter found no room in 392 turns")


def test_a_promise_ends_with_the_last_who_waits_for_it() -> None:
    house = House(num_slots=1, drain_after=0.0)
    house.submit("hot", num_tokens=100)
    house.turns_until(lambda: house.running() == ["hot"])
    gone = house.submit("cold")
    house.turns_until(lambda: house.slots.supply.is_closed("hot"))
    house.scheduler.abort(gone)
    house.submit("hot", num_tokens=2)
    house.turn()
    assert house.running() == ["hot", "hot"]


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from((8, 16, 32, 64)), st.sampled_from("xyz")), max_size=12
    ),
    st.integers(1, 5),
    st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_everybody_runs_although_hot_adapters_never_rest(
    cold: list[tuple[int, int, str]], num_slots: int, seed: int
) -> None:
    """Hot adapters hold every slot or byte, their requests overlap, and they come from all tenants."""
    chance = random.Random(seed)
    house = House(num_slots, size=64, drain_after=0.5)
    waiting = [house.submit(f"cold{number}-{size}", 3, tenant) for number, size, tenant in cold]
    for _ in range(150 + 40 * len(cold)):
        for hot in range(num_slots):
            if chance.random() < 0.4:
                house.submit(f"hot{hot}", chance.randint(1, 6), chance.choice("xyz"))
        house.turn()
        if set(waiting) <= set(house.finished):
            return
    raise AssertionError(f"{set(waiting) - set(house.finished)} of {cold} never ran")


def test_what_is_pinned_is_never_evicted_and_everybody_else_takes_turns() -> None:
    house = House(num_slots=3)
    for digest in ("p", "q"):
        house.pins.give(Pin(digest, "device"))
    house.turns_until(lambda: house.slots.supply.pinned == {"p", "q"})
    asked = [house.submit(f"{number}") for number in range(20)]
    while not set(asked) <= set(house.finished):
        house.turn()
        assert {"p", "q"} <= set(house.slots.resident())
    assert house.pins.digests() == ["p", "q"] and house.pins.refusals() == []


def test_with_all_pinned_cold_requests_wait_and_run_once_one_is_unpinned() -> None:
    house = House(num_slots=2, drain_after=0.0)
    for digest in ("p", "q"):
        house.pins.give(Pin(digest, "device"))
    house.turns_until(lambda: len(house.slots.supply.pinned) == 2)
    cold, warm = house.submit("cold"), house.submit("p")
    house.turns_until(lambda: warm in house.finished)
    for _ in range(50):
        house.turn()
    assert house.scheduler.take_failures() == [] and cold not in house.finished
    house.pins.give(Unpin("q"))
    house.turns_until(lambda: cold in house.finished)
    assert "p" in house.slots.resident()


def test_a_pin_that_can_never_fit_is_refused_and_says_what_to_do() -> None:
    house = House(num_slots=2, host_bytes=16)
    for digest in ("p-40", "q-30", "r-72", "bad", "x"):
        house.broken = {"bad"}
        house.pins.give(Pin(digest, "cellar" if digest == "x" else "device"))
        for _ in range(4):
            house.turn()
    said = {refusal.digest: refusal.message for refusal in house.pins.refusals()}
    assert house.pins.digests() == ["p-40"] and set(said) == {"q-30", "r-72", "bad", "x"}
    assert "unpin another" in said["q-30"] and "72 bytes do not fit" in said["r-72"]
    assert "broken" in said["bad"] and "no tier" in said["x"]
    house.pins.give(Pin("h-12", "host"))
    house.turns_until(lambda: "h-12" in house.host._pinned)
    house.pins.give(Pin("i-6", "host"))
    house.turns_until(lambda: house.pins.refusals()[-1].digest == "i-6")
    house.pins.give(Warm("q-30", "host"))
    assert "q-30" not in {refusal.digest for refusal in house.pins.refusals()}


def test_a_pin_gets_its_room_although_hot_adapters_never_rest() -> None:
    house = House(num_slots=1)
    house.submit("hot", num_tokens=5)
    house.turns_until(lambda: house.running() == ["hot"])
    house.pins.give(Pin("p", "device"))
    for _ in range(40):
        house.submit("hot", num_tokens=5)
        house.turn()
    assert house.slots.resident() == ["p"]


def test_a_warmed_adapter_is_there_before_its_first_request_and_may_go_again() -> None:
    house = House(num_slots=1)
    house.pins.give(Warm("a", "host"))
    house.turns_until(lambda: "a" in house.host)
    assert house.slots.resident() == []
    house.pins.give(Warm("a", "device"))
    house.turns_until(lambda: house.slots.resident() == ["a"])
    other = house.submit("b")
    house.turns_until(lambda: other in house.finished)
    assert house.slots.resident() == ["b"] and house.reads == ["a", "b"]


def test_a_host_pin_outlives_every_storm_of_reads() -> None:
    house = House(num_slots=1, host_bytes=3 * 8)
    house.pins.give(Pin("p", "host"))
    house.turns_until(lambda: "p" in house.host)
    asked = [house.submit(f"{number}", 2) for number in range(12)]
    while not set(asked) <= set(house.finished):
        house.turn()
        assert "p" in house.host and house.host.num_bytes <= 4 * 8
    assert house.reads.count("p") == 1


@pytest.mark.parametrize("number", [2_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_a_storm_over_a_thousand_adapters_evicts_nobody_held_or_pinned(number: int) -> None:
    chance = random.Random(3)
    house = House(num_slots=4, host_bytes=40 * 8, drain_after=0.3)
    house.pins.give(Pin("0", "device"))
    wanted = [str(chance.randrange(1000)) for _ in range(number)]
    asked: list[int] = []
    while len(house.finished) < number:
        while wanted and len(house.asked) - len(house.finished) < 30:
            asked.append(house.submit(wanted.pop(), chance.randint(1, 5), chance.choice("xyz")))
        held = set(house.slots.held())
        house.turn()
        # A turn begins with evictions; who was held then ran on.
        assert all(digest in house.slots for digest in held | house.slots.supply.pinned)
    assert sorted(house.finished) == sorted(asked) and house.scheduler.take_failures() == []
    assert house.host.num_bytes <= 41 * 8


@pytest.mark.parametrize("pool", [PlainPool(4 << 12), PinnedPool(4 << 12, lock_pages=False)])
def test_a_pool_gives_what_it_has_and_takes_it_back(pool: PlainPool | PinnedPool) -> None:
    taken = [pool.take(1 << 11, torch.bfloat16) for _ in range(4)]
    assert pool.take(1, torch.uint8) is None
    for number, tensor in enumerate(taken):
        assert tensor is not None
        tensor.fill_(number)
    assert [float(tensor.float().mean()) for tensor in taken if tensor is not None] == [0, 1, 2, 3]
    extra = pool.take_more(10, torch.float32)
    pool.give_back(extra)
    assert pool.take(1, torch.uint8) is None
    for tensor in taken:
        assert tensor is not None
        pool.give_back(tensor)
    assert pool.take(1 << 13, torch.bfloat16) is not None
