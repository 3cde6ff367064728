"""Threads that want the same wait for one of them; those that want another thing do not."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from server.kernels.once import once


def test_one_thread_makes_it_and_the_others_wait_for_that_alone() -> None:
    begun, may_end, made = Event(), Event(), []

    @once
    def make(name: str) -> str:
        made.append(name)
        if name == "slow":
            begun.set()
            assert may_end.wait(10)
        return name.upper()

    with ThreadPoolExecutor(3) as pool:
        slow = [pool.submit(make, "slow") for _ in range(2)]
        assert begun.wait(10)
        assert make("quick") == "QUICK"
        assert not any(each.done() for each in slow)
        may_end.set()
        assert [each.result() for each in slow] == ["SLOW", "SLOW"]
    assert sorted(made) == ["quick", "slow"]


def test_what_failed_is_tried_again() -> None:
    errors = [ValueError("no room")]

    @once
    def make() -> int:
        if errors:
            raise errors.pop()
        return 7

    with pytest.raises(ValueError, match="no room"):
        make()
    assert make() == make() == 7
