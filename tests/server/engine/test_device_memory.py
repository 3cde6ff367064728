"""Adapters find room and keep their own bytes, whoever comes and goes."""

import random
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from adapters.normal import AdapterWeights, LinearChange, LowRank
from server.engine.arena import Extents
from server.engine.copy_lane import CopyLane
from server.engine.device_memory import Arena, Placed
from server.engine.host_cache import HostCache
from server.engine.slots import AdapterSlots
from server.engine.supply import AdapterUnavailable
from server.model.adapter import AdapterBlob, Allocate
from server.model.blob import make_blob
from server.model.config import ModelConfig

SIZE = 30
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8}
PLAIN = dict.fromkeys(("tied_embeddings", "qkv_bias", "o_bias", "mlp_bias", "qk_norm", "source"), False)
CONFIG = ModelConfig(family="", norm_eps=1, vocab_size=8, max_context=8, num_layers=3, **SIZES, **PLAIN)
SHAPES = CONFIG.linear_shapes()
# Of an adapter on all linears in bfloat16.
RANK_BYTES = 2 * sum(out + width for out, width in SHAPES.values())
QUICK = settings(max_examples=60, stateful_step_count=30, deadline=None)


class Stretches(RuleBasedStateMachine):
    """Extents against a list of who has taken what."""

    def __init__(self) -> None:
        super().__init__()
        self.extents, self.taken = Extents(SIZE), []

    @rule(pieces=st.lists(st.integers(1, 9), min_size=1, max_size=4))
    def take(self, pieces: list[int]) -> None:
        ends = [0, *(end for start, length in sorted(self.taken) for end in (start, start + length)), SIZE]
        free = {start: stop - start for start, stop in zip(ends[::2], ends[1::2], strict=True)}
        best = min((length for length in free.values() if length >= sum(pieces)), default=None)
        apart, starts = deepcopy(self.extents), self.extents.take(pieces)
        assert (starts is not None) == (best is not None or all(apart.take([piece]) for piece in pieces))
        if best is not None:
            assert starts == [starts[0] + sum(pieces[:i]) for i in range(len(pieces))]
            assert free[starts[0]] == best, "not in the smallest stretch that holds them all"
        self.taken += zip(starts or [], pieces, strict=False)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self.extents.give_back(*self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1))))

    @invariant()
    def books_balance(self) -> None:
        cells = {cell for start, length in self.taken for cell in range(start, start + length)}
        assert sum(length for _, length in self.taken) == len(cells) == SIZE - self.extents.num_free
        self.extents.check(self.taken)

    def teardown(self) -> None:
        for start, length in self.taken:
            self.extents.give_back(start, length)
        assert self.extents.take([SIZE]) == [0], "what is given back is not one stretch again"


TestStretches = Stretches.TestCase
TestStretches.settings = QUICK


@cache
def pairs_of(digest: str) -> dict[str, LowRank]:
    """ "7-16": rank 16 on all linears; "7-": several ranks on some linears. The number is the seed."""
    number, rank = digest.split("-")
    chance, make = random.Random(number), torch.Generator().manual_seed(int(number))
    pairs = {}
    for name in SHAPES if rank else chance.sample([*SHAPES], chance.randint(1, len(SHAPES))):
        (out, width), r = SHAPES[name], int(rank or chance.randint(1, 64))
        a, b = torch.randn(r, width, generator=make), torch.randn(out, r, generator=make)
        pairs[name] = LowRank(a.bfloat16(), b.bfloat16())
    return pairs


def blob_of(digest: str, allocate: Allocate | None = None) -> AdapterBlob:
    linears = {name: LinearChange(pair) for name, pair in pairs_of(digest).items()}
    return make_blob(AdapterWeights(linears), CONFIG, torch.bfloat16, allocate)


def make_arena(ranks: int, num_slots: int = 8, max_rank: int = 64) -> Arena:
    """Full of NaN: what was never written cannot pass for zeros."""
    arena = Arena(ranks * RANK_BYTES, num_slots, CONFIG, max_rank, torch.empty(0, dtype=torch.bfloat16))
    arena.memory.weights.fill_(torch.nan)
    return arena


def assert_seen(arena: Arena, slot: int, digest: str) -> None:
    """What a kernel finds by the slot's places is the adapter."""
    weights, pairs = arena.memory.weights, pairs_of(digest)
    rows = arena.memory.places[slot].flatten(0, 1).tolist()
    for (name, (out, width)), (a_at, b_at, rank, _) in zip(SHAPES.items(), rows, strict=True):
        assert bool(rank) == (name in pairs)
        if rank:
            b = weights[8 * b_at :][: out * -(-rank // 8) * 8].view(out, -1)
            assert torch.equal(weights[8 * a_at :][: rank * width].view(rank, width), pairs[name].a)
            assert torch.equal(b[:, :rank], pairs[name].b) and not b[:, rank:].any()


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 200)), min_size=8, max_size=40))
@QUICK
def test_adapters_see_their_own_bytes_whoever_comes_and_goes(moves: list[tuple[int, int]]) -> None:
    arena = make_arena(64)
    placed: dict[int, tuple[Placed, str]] = {}
    for slot, number in moves:
        if slot in placed:
            arena.remove(placed.pop(slot)[0])
        elif (there := arena.place(slot, blob_of(f"{number}-"))) is not None:
            placed[slot] = there, f"{number}-"
        else:
            assert placed, "an empty arena has no room"
        arena.check([each for each, _ in placed.values()])
        assert arena.free() == arena.capacity() - sum(each.num_bytes for each, _ in placed.values())
        for own, (_, digest) in placed.items():
            assert_seen(arena, own, digest)


@pytest.mark.parametrize(("gone", "num_stretches"), [({0, 2, 4}, 3), ({0, 1, 4}, 2), ({2, 3, 4}, 1)])
def test_an_adapter_in_several_stretches_is_whole(gone: set[int], num_stretches: int) -> None:
    arena = make_arena(6 * 8)
    small = [arena.place(i + 1, blob_of(f"{i}-8")) for i in range(6)]
    for i in gone:
        arena.remove(small[i])
    large = arena.place(7, blob_of("9-24"))
    assert 1 + sum(sum(piece) != start for piece, (start, _) in pairwise(large.extents)) == num_stretches
    assert_seen(arena, 7, "9-24")
    for i in set(range(6)) - gone:
        assert_seen(arena, i + 1, f"{i}-8")


@pytest.mark.parametrize(("rank", "max_rank"), [*product(range(8, 65, 8), (64, 256, 1024))])
def test_an_adapter_takes_its_own_bytes_whatever_the_highest_rank(rank: int, max_rank: int) -> None:
    arena = make_arena(100, max_rank=max_rank)
    arena.place(1, blob_of(f"1-{rank}"))
    assert rank * RANK_BYTES <= arena.capacity() - arena.free() <= 1.1 * rank * RANK_BYTES


def make_slots(ranks: int, digests: list[str], num_slots: int = 8) -> tuple[AdapterSlots, Arena]:
    """Room for adapters of so many ranks together; the digests stand in host memory."""
    host = HostCache(blob_of, max_bytes=1 << 30)
    host.ask(digests)
    while not all(digest in host for digest in digests):
        host.settle()
    return AdapterSlots(num_slots, host, arena := make_arena(ranks, num_slots)), arena


# Free without the idle one are 24 and 24 of 72, apart: of three layers of 40 / 3 the last finds no stretch.
APART = (72, "1-24 2-24 3-40 4-80")


@pytest.mark.parametrize(("ranks", "digests"), [(40, "1-8 2-32 3-16 4-80"), APART])
def test_what_does_not_fit_waits_or_is_refused_and_evicts_nobody(ranks: int, digests: str) -> None:
    idle, held, wanted, huge = digests.split()
    slots, arena = make_slots(ranks, digests.split())
    assert (slots.acquire(idle), slots.acquire(held), slots.release(idle)) == (1, 2, None)
    with pytest.raises(AdapterUnavailable, match=f"{80 * RANK_BYTES} bytes do not fit.*--adapter-memory"):
        slots.acquire(huge)
    assert (slots.acquire(wanted), slots.resident(), slots.supply.num_evictions) == (None, [held, idle], 0)
    slots.supply.claim(wanted)
    assert slots.supply.is_closed(held) and not slots.supply.is_closed(idle)
    slots.release(held)
    assert_seen(arena, slots.acquire(wanted), wanted)
    slots.check({wanted: 1})


def test_a_thousand_adapters_take_turns_in_the_room_of_forty() -> None:
    chance = random.Random(5)
    digests = [f"{number}-{chance.randrange(8, 65, 8)}" for number in range(1000)]
    slots, arena = make_slots(40 * 36, digests, 64)
    wanted = chance.sample(digests + 7 * digests[:30], 1210)
    waiting, held, longest = [], [], 0
    for turn in range(300):
        while wanted and len(waiting) + len(held) < 64:
            waiting.append((turn, wanted.pop()))
        for since, digest in list(waiting):
            if (slot := slots.acquire(digest)) is not None:
                waiting.remove((since, digest))
                held.append((turn + chance.randint(0, 6), digest, slot))
                assert_seen(arena, slot, digest)
            longest = max(longest, turn - since)
        slots.check(dict(Counter(digest for _, digest, _ in held)))
        for end, digest, slot in [each for each in held if each[0] == turn]:
            assert_seen(arena, slot, digest)
            slots.release(digest)
            held.remove((end, digest, slot))
    assert 0 < longest < 20 and not wanted and not waiting and not held


def test_a_slot_that_the_device_holds_for_another_generation_is_noticed() -> None:
    slots, arena = make_slots(40, ["1-8", "2-8"], num_slots=1)
    assert (slots.acquire("1-8"), slots.generation_of("1-8")) == (1, 1)
    slots.release("1-8")
    assert (slots.acquire("2-8"), slots.generation_of("2-8"), slots.generation_of("1-8")) == (1, 2, None)
    slots.check({"2-8": 1})
    arena.memory.places[1, 0, 0, 3] = 1
    with pytest.raises(AssertionError, match="other generations on the device"):
        slots.check({"2-8": 1})


class Steps:
    """A device whose work is a list: a mark is passed when the test has run so much of it."""

    def __init__(self) -> None:
        self.launched = self.run = 0
        self.waits: list[list[int]] = []

    def mark(self) -> "Point":
        return Point(self, self.launched)

    def copy(self, write: Callable[[], None], after: list[Any]) -> None:
        self.waits.append([point.at for point in after])
        write()


@dataclass(frozen=True)
class Point:
    steps: Steps
    at: int

    def query(self) -> bool:
        return self.steps.run >= self.at


def test_a_copy_waits_for_the_last_step_that_reads_what_it_overwrites_and_for_no_other() -> None:
    steps = Steps()
    like = torch.empty(0, dtype=torch.bfloat16)
    arena = Arena(116 * RANK_BYTES, 4, CONFIG, 64, like, cast(CopyLane, steps))
    one, two = arena.place(1, blob_of("1-40")), arena.place(2, blob_of("2-40"))
    assert one is not None and two is not None
    steps.launched = 1
    arena.leave(one)
    steps.launched = 2
    arena.leave(two)
    arena.remove(one)
    # Beside both: a slot and a stretch that nobody reads.
    arena.place(3, blob_of("3-16"))
    arena.place(1, blob_of("4-40"))
    arena.remove(two)
    arena.place(2, blob_of("5-40"))
    assert steps.waits[1:] == [[], [], [], [1], [2]]
    steps.run = 2
    assert arena.place(4, blob_of("6-8")) is not None
    assert steps.waits[-1] == []
