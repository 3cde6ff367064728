"""What a step's adapters cost it: a plain graph, one with vectors, or none."""

from functools import cache

import pytest
import torch

from server.engine.batch import sort_by_slot
from server.engine.beyond import PLAIN, Beyond, beyond_pairs
from server.engine.messages import Sampling, Submit
from server.engine.sequence import Chosen, Sequence
from server.model.adapter import AdapterBlob
from server.model.blob import make_blob
from tests.changes import ADDED, KINDS, NUM_VIRTUAL, weights_of
from tests.server.engine.test_device_memory import CONFIG


@cache
def blob_of(kind: str) -> AdapterBlob:
    return make_blob(weights_of(kind, CONFIG), CONFIG, torch.float32)


def choice(kind: str, num_tokens: int = 1, start: int = 20) -> Chosen:
    num_virtual = NUM_VIRTUAL if kind in ("prompt", "keys") else 0
    request = Submit(
        id=1,
        tenant="",
        adapter=kind,
        tokens=list(range(40)),
        sampling=Sampling(),
        arrived_at=0.0,
        num_virtual=num_virtual,
        has_keys=kind == "keys",
    )
    sequence = Sequence.of(request)
    sequence.slot = 1 + list(KINDS).index(kind) if kind else 0
    return Chosen(sequence, num_tokens, start, samples=True)


def of(*chosen: Chosen) -> Beyond:
    return beyond_pairs(sort_by_slot(list(chosen)), blob_of, CONFIG)


def test_pairs_and_the_base_ask_for_nothing_more() -> None:
    assert of(choice(""), choice("pair"), choice("pair", 7)) is PLAIN


@pytest.mark.parametrize("kind", ["gain", "gain-of-some", "bias", "input-of-down"])
def test_vectors_have_a_graph_of_their_own(kind: str) -> None:
    assert of(choice(""), choice("pair"), choice(kind)) == Beyond(adjusts=True)


@pytest.mark.parametrize("kind", ["input-of-fused", "input-of-all"])
def test_inputs_of_linears_that_are_one_are_split_for_their_rows(kind: str) -> None:
    found = of(choice("pair", 3), choice(kind, 2))
    assert found.adjusts and not found.fits_graph and found.whole is None
    rows = {(m.segment.start, m.segment.end) for members in found.split.values() for m in members}
    assert rows == {(3, 5)}


@pytest.mark.parametrize("kind", ["low-rank-tables", "added", "wider", "norms"])
def test_tables_are_computed_for_the_rows_of_their_adapter_in_a_step_without_a_graph(kind: str) -> None:
    found = of(choice(""), choice("pair", 4), choice(kind, 2), choice(kind))
    assert not found.fits_graph and found.whole is not None
    (member,) = found.whole.members
    assert (member.start, member.end, member.first, member.last) == (5, 8, 2, 4)
    assert found.whole.vocab_size == CONFIG.vocab_size + (ADDED if kind in ("added", "wider") else 0)


def test_virtual_tokens_are_a_matter_of_the_prompt() -> None:
    assert of(choice("prompt")).fits_graph and of(choice("keys", 9, start=NUM_VIRTUAL)).fits_graph
    assert of(choice("prompt", 4, start=NUM_VIRTUAL - 1)).whole is not None
    assert of(choice("prompt", 4, start=NUM_VIRTUAL)).whole is None
