"""Aliases moved and read by many at once, judged by the histories they leave."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest

from adapters import Alias, AliasChanged, Share, Store
from tests.adapters.linear import Operation, problems

WRITERS = READERS = 8


def operation(kind: str, began: float, ended: float, revision: int, *versions: int) -> Operation:
    return Operation(kind, began, ended, revision, versions)


@pytest.mark.parametrize(
    ("history", "says"),
    [
        ([operation("write", 0, 1, 1, 1), operation("read", 2, 3, 1, 1)], ""),
        ([operation("write", 0, 5, 1, 1), operation("read", 1, 2, 1, 1)], ""),
        ([operation("write", 0, 1, 1, 1), operation("write", 0, 1, 1, 2)], "same revision"),
        ([operation("write", 0, 1, 2, 1)], "missing"),
        ([operation("write", 0, 1, 1, 1), operation("read", 2, 3, 1, 2)], "nobody wrote"),
        ([operation("write", 5, 6, 1, 1), operation("read", 1, 2, 1, 1)], "had not begun"),
        (
            [operation("write", 0, 1, 1, 1), operation("write", 2, 3, 2, 2), operation("read", 4, 5, 1, 1)],
            "goes back",
        ),
        ([operation("write", 0, 1, 2, 1), operation("write", 2, 3, 1, 2)], "goes back"),
    ],
)
def test_the_checker_sees_what_is_wrong(history: list[Operation], says: str) -> None:
    found = " ".join(problems(history))
    assert (says in found) if says else not found


class Crowd:
    """Writers and readers of one alias, each at a server of its own where the storage is shared."""

    def __init__(self, servers: list[Store], num_moves: int) -> None:
        self.history: list[Operation] = []
        self._servers = servers
        self._num_moves = num_moves

    def run(self) -> None:
        with ThreadPoolExecutor(WRITERS + READERS) as pool:
            jobs = [pool.submit(self._write, i) for i in range(WRITERS)]
            jobs += [pool.submit(self._read, i) for i in range(READERS)]
            for job in jobs:
                job.result()

    def _write(self, number: int) -> None:
        store, random = self._servers[number % len(self._servers)], Random(number)
        for _ in range(self._num_moves):
            etag = store.aliases.get("acme", "a", "prod").etag if number % 2 else None
            began = time.monotonic()
            try:
                moved = store.aliases.set("acme", "a", "prod", [Share(random.randint(1, 3), 1)], etag)
            except AliasChanged:
                continue
            self._note("write", began, moved)

    def _read(self, number: int) -> None:
        store = self._servers[number % len(self._servers)]
        for _ in range(self._num_moves):
            began = time.monotonic()
            self._note("read", began, store.aliases.get("acme", "a", "prod"))

    def _note(self, kind: str, began: float, alias: Alias) -> None:
        versions = tuple(share.version for share in alias.shares)
        revision = alias.states[-1].revision
        self.history.append(Operation(kind, began, time.monotonic(), revision, versions))


@pytest.mark.parametrize(
    "num_moves", [6, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(3000)])]
)
def test_alias_moves_are_linearizable(stores: Callable[[], Store], builder: Any, num_moves: int) -> None:
    servers = [stores() for _ in range(4)]
    for seed in range(3):
        builder.commit(servers[0], "acme", "a", seed=seed)
    began = time.monotonic()
    first = servers[0].aliases.set("acme", "a", "prod", [Share(1, 1)])
    crowd = Crowd(servers, num_moves)
    crowd._note("write", began, first)
    crowd.run()
    assert problems(crowd.history) == []
    writes = [each for each in crowd.history if each.kind == "write"]
    assert len(writes) > num_moves * WRITERS // 2
    assert len(servers[-1].aliases.get("acme", "a", "prod").states) == min(100, len(writes))
