"""Blocks, slots, host cache and queue: what is taken comes back, and nobody gets another's."""

import threading
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.engine.blocks import BlockPool, extend_hashes, salt
from server.engine.host_cache import HostCache
from server.engine.host_pool import PlainPool
from server.engine.messages import Sampling, Submit
from server.engine.queue import FairQueue
from server.engine.sequence import Sequence
from server.engine.slots import AdapterSlots
from server.engine.supply import AdapterUnavailable
from server.model.adapter import AdapterBlob, Allocate

SIZE = 4


class Blocks(RuleBasedStateMachine):
    """Holders with chains of tokens; a model remembers what each published block was computed from."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(12, SIZE)
        self.held: list[tuple[list[int], list[bytes]]] = []
        self.content: dict[int, bytes] = {}

    @rule(
        tenant=st.sampled_from("ab"),
        adapter=st.sampled_from("xy"),
        tokens=st.lists(st.integers(0, 1), max_size=16),
    )
    def begin(self, tenant: str, adapter: str, tokens: list[int]) -> None:
        hashes: list[bytes] = []
        extend_hashes(hashes, salt(b"s", tenant, adapter), tokens, SIZE)
        found, free = self.pool.count_cached(hashes)
        if len(hashes) - found + free > self.pool.num_free:
            return
        blocks = self.pool.match(hashes)
        assert len(blocks) == found
        for block, expected in zip(blocks, hashes, strict=False):
            assert self.content[block] == expected, "a block of other tokens, tenant or adapter was shared"
        while len(blocks) < len(hashes):
            block = self.pool.allocate()
            blocks.append(block)
            self.content[block] = hashes[len(blocks) - 1]
            self.pool.publish(block, hashes[len(blocks) - 1])
        self.held.append((blocks, hashes))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        blocks, _ = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.pool.release(blocks)

    @invariant()
    def books_balance(self) -> None:
        self.pool.check([blocks for blocks, _ in self.held])
        for blocks, hashes in self.held:
            assert [self.content[b] for b in blocks] == hashes, "a held block was overwritten"


TestBlocks = Blocks.TestCase
TestBlocks.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_salts_cannot_be_shifted_between_their_parts() -> None:
    salts = {salt(b"s", "a", "bc"), salt(b"s", "ab", "c"), salt(b"sa", "", "bc"), salt(b"s", "abc", "")}
    assert len(salts) == 4


def blob(size: int = 10) -> AdapterBlob:
    return AdapterBlob(torch.zeros(size), ())


def placed_by(allocate: Allocate) -> AdapterBlob:
    return AdapterBlob(allocate(10, torch.float32).zero_(), ())


class Reader:
    """Reads when told to; counts."""

    def __init__(self, *broken: str) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.reads: list[str] = []
        self.broken = set(broken)

    def __call__(self, digest: str, allocate: Allocate) -> AdapterBlob:
        assert self.gate.wait(10)
        self.reads.append(digest)
        if digest in self.broken:
            raise OSError("the disk is gone")
        return placed_by(allocate)


def make_slots(num_slots: int, reader: Reader, max_bytes: int = 1 << 20) -> AdapterSlots:
    return AdapterSlots(num_slots, HostCache(reader, max_bytes))


def acquire(slots: AdapterSlots, digest: str) -> int:
    while (slot := slots.acquire(digest)) is None:
        pass
    return slot


def test_the_base_needs_no_slot() -> None:
    slots = make_slots(1, Reader())
    assert slots.acquire("") == 0
    slots.release("")
    slots.check({})


def test_who_finds_no_room_is_looked_at_again_only_when_something_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slots, waiting, tried = make_slots(1, Reader()), [f"a{number}" for number in range(50)], list[str]()
    acquire(slots, "held")
    supply, bring = slots.supply, slots.supply.bring
    supply.expect(waiting)
    while not all(digest in slots.host for digest in waiting):
        supply.poll()
    monkeypatch.setattr(supply, "bring", lambda digest: tried.append(digest) or bring(digest))
    for _ in range(10):
        supply.bring_expected()
        supply.poll()
    assert tried == waiting
    slots.release("held")
    supply.bring_expected()
    assert tried == 2 * waiting and slots.resident() == ["a0"]


def test_a_held_slot_is_never_taken_and_the_least_recent_goes_first() -> None:
    slots = make_slots(2, Reader())
    a, b = acquire(slots, "a"), acquire(slots, "b")
    assert {a, b} == {1, 2}
    slots.supply.expect(["c"])
    assert all(slots.acquire("c") is None for _ in range(100))
    slots.release("a")
    slots.release("b")
    acquire(slots, "a")
    slots.release("a")
    assert acquire(slots, "c") == b
    assert (slots.resident(), slots.held(), slots.supply.num_evictions) == (["a", "c"], ["c"], 1)
    slots.check({"c": 1})
    assert (slots.slot_of("c"), slots.slot_of("a"), slots.slot_of("b"), slots.slot_of("")) == (
        b,
        None,
        None,
        0,
    )
    with pytest.raises(AssertionError, match="holds differ"):
        slots.check({})


def test_many_waiters_cause_one_read_and_nobody_waits_inside() -> None:
    reader = Reader()
    reader.gate.clear()
    slots = make_slots(2, reader)
    assert [slots.acquire("a") for _ in range(50)] == [None] * 50
    reader.gate.set()
    assert acquire(slots, "a") == acquire(slots, "a")
    assert reader.reads == ["a"]


def test_a_failed_load_costs_nobody_a_slot_and_is_tried_again() -> None:
    reader = Reader("bad")
    slots = make_slots(1, reader)
    acquire(slots, "good")
    slots.release("good")
    with pytest.raises(AdapterUnavailable, match="cannot be read from the store"):
        acquire(slots, "bad")
    assert slots.resident() == ["good"]
    reader.broken.clear()
    assert acquire(slots, "bad") == 1


def test_the_host_cache_keeps_to_its_bytes_oldest_out_first() -> None:
    reader = Reader()
    host = HostCache(reader, max_bytes=2 * blob().num_bytes)
    for digest in "abacb":
        while host.get(digest) is None:
            pass
    assert host.num_bytes <= 2 * blob().num_bytes
    assert reader.reads == ["a", "b", "c", "b"]
    host.close()


def sequence(tenant: str, number: int = 0) -> Sequence:
    return Sequence.of(
        Submit(id=number, tenant=tenant, adapter="", tokens=[1], sampling=Sampling(), arrived_at=0.0)
    )


def test_the_tenant_served_least_goes_first_whatever_its_line() -> None:
    queue = FairQueue()
    flood = [sequence("flood", i) for i in range(100)]
    for s in flood:
        queue.push(s)
    taken = []
    for candidate in queue.candidates():
        queue.take(candidate)
        queue.charge("flood", 10)
        taken.append(candidate)
        if len(taken) == 5:
            break
    assert taken == flood[:5]
    queue.push(sequence("quiet"))
    first = next(queue.candidates())
    assert first.request.tenant in {"quiet", "flood"}
    queue.charge("flood", 1)
    assert next(queue.candidates()).request.tenant == "quiet"


def test_idleness_saves_up_no_credit() -> None:
    queue = FairQueue()
    running = sequence("busy")
    queue.push(running)
    queue.push(sequence("busy", 1))
    queue.take(running)
    queue.charge("busy", 1000)
    queue.push(sequence("late"))
    order: list[Any] = []
    for candidate in queue.candidates():
        order.append(candidate.request.tenant)
        queue.charge(candidate.request.tenant, 500)
    assert sorted(order) == ["busy", "late"]
    queue.push(sequence("late", 2))
    queue.push(sequence("busy", 2))
    assert len(queue) == 4


def test_memory_that_a_read_took_and_did_not_use_is_free_again() -> None:
    pool, read = PlainPool(100), threading.Semaphore(0)

    def load(digest: str, allocate: Allocate) -> AdapterBlob:
        allocate(10, torch.float32)
        return AdapterBlob(allocate(10, torch.float32), ())

    host = HostCache(load, 100, 1, pool, notify=read.release)
    host.get("a")
    assert read.acquire(timeout=10)
    assert host.get("a") is not None and host.num_bytes == 40
    assert pool.take(15, torch.float32) is not None and pool.take(1, torch.float32) is None
    host.close()
