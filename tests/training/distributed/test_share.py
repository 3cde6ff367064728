from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import SequentialSampler

from training.distributed.share import BLANK, Rows, Whole, blank, share
from training.distributed.world import World
from training.encode import IGNORED, Example


@given(st.integers(0, 20), st.integers(1, 5))
def test_every_row_is_somebodys_and_nobody_has_more(count: int, size: int) -> None:
    rows = [Example([number], [number]) for number in range(count)]
    shares = [share(rows, World(rank, size), pad=7) for rank in range(size)]
    assert len({len(each) for each in shares}) == 1
    real = [row for each in shares for row in each if row != blank(7)]
    assert sorted(row.input_ids[0] for row in real) == list(range(count))
    assert all(row.num_loss_tokens == 0 for each in shares for row in each if row not in real)


@given(st.integers(1, 20), st.integers(1, 6))
def test_an_order_is_made_up_to_whole_passes(count: int, multiple: int) -> None:
    order = Whole(SequentialSampler(range(count)), multiple)
    indices = list(order)
    assert len(indices) == len(order) and len(order) % multiple == 0
    assert indices[:count] == list(range(count))
    assert set(indices[count:]) <= {BLANK} and len(indices) - count < multiple


def test_rows_know_the_blank_one() -> None:
    empty = {"labels": [IGNORED]}
    rows = Rows([{"labels": [1]}, {"labels": [2]}], empty)
    assert len(rows) == 2
    assert (rows[1], rows[BLANK]) == ({"labels": [2]}, empty)
