"""Strikes: no more than so many in any time, and no more of them kept than there is room for."""

from hypothesis import given
from hypothesis import strategies as st

from server.strikes import MAX_KEPT, MAX_STRIKES, SECONDS, Strikes


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, SECONDS / 2)), max_size=60))
def test_who_heeds_them_never_does_it_more_often(steps: list[tuple[str, float]]) -> None:
    clock = Clock()
    strikes = Strikes(clock)
    times: dict[str, list[float]] = {"a": [], "b": []}
    for who, seconds in steps:
        clock.now += seconds
        of = times[who]
        if strikes.seconds_left(who) == 0.0:
            strikes.add(who)
            of.append(clock.now)
            assert sum(time > clock.now - SECONDS for time in of) <= MAX_STRIKES
        else:
            assert sum(time > clock.now - SECONDS for time in of) == MAX_STRIKES
            assert strikes.seconds_left(who) == of[-MAX_STRIKES] + SECONDS - clock.now


def test_the_longest_quiet_are_forgotten_first() -> None:
    strikes = Strikes(Clock())
    for who in range(MAX_KEPT):
        strikes.add(who)
    for _ in range(MAX_STRIKES - 1):
        strikes.add(0)
    for who in range(MAX_KEPT, 2 * MAX_KEPT - 1):
        strikes.add(who)
    assert len(strikes) == MAX_KEPT and strikes.seconds_left(0) == SECONDS
    strikes.add("another")
    assert len(strikes) == MAX_KEPT and strikes.seconds_left(0) == 0.0
