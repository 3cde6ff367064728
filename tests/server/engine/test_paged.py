"""Packed steps equal plain ones, padded to a graph's size or not."""

import random
from itertools import islice

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from server.engine.batch import build_step, sort_by_slot
from server.engine.graphs import bucket_of
from server.engine.paged import Bucket, Layout, most_ints, pack
from server.engine.sequence import UNKNOWN, Chosen, Sequence
from server.kernels.lora import AdapterMemory
from server.model.step import Step

QUICK = settings(max_examples=60, stateful_step_count=30, deadline=None)
MEMORY = AdapterMemory(torch.empty(0), torch.zeros(1, 1, 7, 4, dtype=torch.int32))


def make_chosen(chance: random.Random, number: int, longest: int, block_size: int) -> list[Chosen]:
    """Decodes, and chunks if longest > 1, of several adapters and the base, in the order of a step."""
    blocks = iter(chance.sample(range(4000), 4000))
    num_slots = chance.choice((0, 1, 5, 100))
    chosen = []
    for _ in range(number):
        start, num_tokens = chance.randint(0, 40), chance.randint(1, chance.choice((1, longest)))
        left = 0 if longest == 1 else chance.choice((0, 0, 3))
        ids = [*chance.choices(range(3, 999), k=start + num_tokens + left - 1), chance.choice((5, UNKNOWN))]
        own = list(islice(blocks, -(-len(ids) // block_size) + chance.randint(0, 2)))
        slot, row = chance.randint(0, num_slots), chance.randint(0, 99)
        sequence = Sequence(None, ids, num_prompt=1, blocks=own, slot=slot, pending_row=row)
        chosen.append(Chosen(sequence, num_tokens, start, samples=not left))
    return sort_by_slot(chosen)


def contexts_of(step: Step) -> list[list[int]]:
    """The cells of every sequence's context, as the kernels find them."""
    plan, size = step.attention, step.attention.block_size
    cells = (plan.blocks[:, None] * size + torch.arange(size)).flatten().tolist()
    firsts, contexts = plan.block_at.tolist(), plan.contexts.tolist()
    return [cells[at * size :][:length] for at, length in zip(firsts, contexts, strict=True)]


def plain_contexts(step: Step, lengths: list[int]) -> list[list[int]]:
    decodes, chunks = step.attention.decodes, iter(step.attention.chunks)
    decoded = iter(() if decodes is None else zip(decodes.cells, decodes.seen.flatten(1), strict=True))
    found = [(next(decoded) if n == 1 else (next(chunks).cells, slice(None))) for n in lengths]
    return [cells[seen].tolist() for cells, seen in found]


def assert_tiled(step: Step, slots: list[int]) -> None:
    """Each adapter's tokens are in one tile of their slot, the base's in none."""
    owners = [0] * len(slots)
    if step.lora is not None:
        assert step.lora.batch.slots.tolist() == slots
        for slot, first, rows in step.lora.batch.tiles.tolist():
            assert rows <= step.lora.batch.tile_rows and bool(slot) == bool(rows)
            assert not any(owners[first : first + rows]), "a token is in two tiles"
            owners[first : first + rows] = [slot] * rows
    assert owners == slots


def check_pack(chosen: list[Chosen], size: int, rows: int | None = None) -> Layout:
    """The packed step is the plain one, and rows that touch nothing up to the bucket."""
    ints, layout = pack(chosen, None if rows is None else Bucket(rows))
    lengths, slots = [c.num_tokens for c in chosen], [c.sequence.slot for c in chosen]
    step = layout.step(torch.from_numpy(ints), size, MEMORY, torch.empty(0))
    plain, plan = build_step(chosen, None, size, torch.device("cpu")), step.attention
    contexts, padding = contexts_of(step), [0] * ((rows or len(chosen)) - len(chosen))
    assert step.token_ids.tolist() == plain.token_ids.tolist() + padding
    assert step.positions.tolist() == plain.positions.tolist() + padding
    sampled = torch.arange(sum(lengths)) if step.sampled is None else step.sampled
    assert sampled.tolist() == plain.sampled.tolist()
    assert contexts == plain_contexts(plain, lengths) + [[] for _ in padding]
    assert plan.starts[0] == 0 and plan.starts.diff().tolist() == lengths + [1 for _ in padding]
    sizes = [0, *(len(cells) for cells, n in zip(contexts, lengths, strict=False) if n > 1)]
    assert (plan.longest, plan.total_context, plan.longest_context) == (max(lengths), sum(sizes), max(sizes))
    assert_tiled(step, [slot for slot, n in zip(slots, lengths, strict=True) for _ in range(n)] + padding)
    return layout


@given(st.integers(), st.integers(1, 90), st.sampled_from([1, 2, 100]), st.sampled_from([4, 16]))
@QUICK
def test_a_packed_step_says_what_the_plain_one_says(seed: int, number: int, longest: int, size: int) -> None:
    check_pack(make_chosen(random.Random(seed), number, longest, size), size)


@given(st.integers(), st.integers(1, 64), st.integers(0, 63))
@QUICK
def test_a_padded_step_has_the_layout_of_its_bucket(seed: int, number: int, spare: int) -> None:
    chosen, rows = make_chosen(random.Random(seed), number, 1, 4), min(number + spare, 64)
    assert check_pack(chosen, 4, rows) == Bucket(rows).layout(any(c.sequence.slot for c in chosen))


@given(st.integers(), st.integers(1, 24), st.sampled_from([2, 30]))
@QUICK
def test_a_step_with_chunks_is_padded_by_rows_that_touch_nothing(
    seed: int, number: int, longest: int
) -> None:
    chosen, size = make_chosen(random.Random(seed), number, longest, 4), 4
    bucket = bucket_of(chosen, 512)
    assume(bucket is not None and bucket.context)
    assert bucket is not None
    ints, layout = pack(chosen, bucket)
    assert layout == bucket.layout(has_adapters=False)
    assert len(ints) <= most_ints(64, 512, 40)
    # As a graph reads it: beyond the step stands what earlier ones have left.
    array = np.concatenate((ints, np.full(50, 1 << 30, np.int32)))
    step = layout.step(torch.from_numpy(array), size, MEMORY, torch.empty(0))
    plain, plan = build_step(chosen, None, size, torch.device("cpu")), step.attention
    lengths, tokens = [c.num_tokens for c in chosen], sum(c.num_tokens for c in chosen)
    padding = [0] * (bucket.tokens - tokens)
    assert step.token_ids.tolist() == plain.token_ids.tolist() + padding
    assert step.positions.tolist() == plain.positions.tolist() + padding
    assert step.sampled.tolist()[: len(plain.sampled)] == plain.sampled.tolist()
    assert not step.sampled[len(plain.sampled) :].any() and len(step.sampled) == 64
    contexts = plain_contexts(plain, lengths)
    assert contexts_of(step) == contexts + [[] for _ in range(65 - number)]
    assert plan.starts[: number + 1].diff().tolist() == lengths and plan.starts[0] == 0
    assert plan.starts.diff().min() >= 0 and plan.starts[-1] == bucket.tokens
    together = [cell for context, n in zip(contexts, lengths, strict=True) if n > 1 for cell in context]
    assert plan.cells[: len(together)].tolist() == together and plan.ends[-1] == len(together)
    assert plan.cells[len(together) :].unique().tolist() == [chosen[0].sequence.blocks[0] * size]
    assert_tiled(step, [s for c in chosen for s in [c.sequence.slot] * c.num_tokens] + padding)


def chunks_of(*lengths: int, slots: int = 1) -> list[Chosen]:
    sequences = [Sequence(None, [5] * n, num_prompt=1, slot=at % slots + 1) for at, n in enumerate(lengths)]
    return [Chosen(s, len(s.tokens), 0, samples=True) for s in sequences]


def test_only_steps_that_fit_a_bucket_are_graphs() -> None:
    assert bucket_of(chunks_of(256), 4096) == Bucket(256, 4096)
    assert bucket_of(chunks_of(256, 1), 4096) == Bucket(320, 4096)
    assert bucket_of(chunks_of(256, 1), 256) is None
    assert bucket_of(chunks_of(1025), 4096) is None
    assert bucket_of(chunks_of(2, *[1] * 63, slots=64), 4096) == Bucket(128, 4096)
    assert bucket_of(chunks_of(2, *[1] * 64), 4096) is None
    assert bucket_of(chunks_of(1, 1, 1), 4096) == Bucket(4)
    late = Sequence(None, [5] * 16384, num_prompt=1, slot=0)
    assert bucket_of([Chosen(late, 64, 16320, samples=True)], 4096) == Bucket(64, 16384)
    assert bucket_of([Chosen(late, 64, 16384, samples=True)], 4096) is None
    decodes = [Chosen(late, 1, 16383, samples=True)] * 9
    assert bucket_of([*chunks_of(55), *decodes], 4096) == Bucket(64, 4096)
