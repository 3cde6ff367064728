"""Graphs of steps with chunks are captured ahead, once each, and steps go on where one does not fit."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from server.engine.graphs import chunk_buckets
from server.engine.paged import Layout


class FewGraphs:
    """Room for so many."""

    def __init__(self, room: int) -> None:
        self.held: list[Layout] = []
        self.asked = 0
        self._room = room

    def __contains__(self, layout: Layout) -> bool:
        return layout in self.held

    def add(self, layout: Layout, kept: Any) -> None:
        self.asked += 1
        if len(self.held) == self._room:
            raise torch.OutOfMemoryError("no room")
        self.held.append(layout)


@pytest.fixture
def make_runner(no_bindings: None) -> Any:
    from server.engine.paged_runner import PagedRunner, layouts_ahead

    def make(room: int) -> Any:
        runner = object.__new__(PagedRunner)
        runner.graphs = FewGraphs(room)
        runner._kernels, runner._too_large = SimpleNamespace(is_done=True), set()
        runner._previous, runner._ahead = None, layouts_ahead(256)
        return runner

    return make


def test_idle_turns_capture_one_each_until_all_are_there(make_runner: Any) -> None:
    runner, buckets = make_runner(99), list(chunk_buckets(256))
    assert {bucket.tokens for bucket in buckets} == {64, 128, 192, 256}
    for turn in range(len(buckets)):
        assert len(runner.graphs.held) == turn
        runner.rest()
    runner.rest()
    every = {bucket.layout(has_adapters=True) for bucket in buckets}
    assert set(runner.graphs.held) == every and runner.graphs.asked == len(every)
    assert runner.graphs.held[0] == buckets[0].layout(has_adapters=True)


def test_nothing_is_captured_while_kernels_are_being_made(make_runner: Any) -> None:
    runner = make_runner(99)
    runner._kernels.is_done = False
    runner.rest()
    assert runner.graphs.asked == 0


def test_what_does_not_fit_is_tried_once(make_runner: Any) -> None:
    runner, buckets = make_runner(1), list(chunk_buckets(256))
    first, second = (bucket.layout(has_adapters=True) for bucket in buckets[:2])
    assert [runner._is_captured(each) for each in (first, second, second, first)] == [
        True,
        False,
        False,
        True,
    ]
    assert runner.graphs.asked == 2
