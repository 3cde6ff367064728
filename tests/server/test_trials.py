"""Who killed the engine: the culprit is found, nobody else is blamed, and nobody is forgotten."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from server.engine.messages import Sampling, Submit, Token
from server.stream import Stream
from server.trials import MAX_LOSSES, Trials


def stream(number: int) -> Stream:
    request = Submit(id=number, tenant="t", adapter="", tokens=[1], sampling=Sampling(), arrived_at=0.0)
    return Stream(request, interval=1000.0)


class Engine:
    """Dies of poison the moment it is given some; gives everybody else a token when asked to go on."""

    def __init__(self, poison: set[int]) -> None:
        self.trials = Trials(self._take)
        self.live: dict[int, Stream] = {}
        self.blamed: list[int] = []
        self.deaths = 0
        self._poison = poison
        self._has: dict[int, Stream] = {}
        self._is_dead = False

    def _take(self, taken: Stream) -> None:
        self._has[taken.request.id] = taken
        self._is_dead |= taken.request.id in self._poison

    def ask(self, number: int) -> None:
        self.live[number] = stream(number)
        self.trials.offer(self.live[number], is_ready=not self._is_dead)

    def go_on(self) -> None:
        """A turn of the loop: a death, or a last token for all that the engine has."""
        if self._is_dead:
            self.deaths += 1
            self._is_dead, self._has = False, {}
            culprit = self.trials.resume(list(self.live.values()))
            if culprit is not None:
                self.blamed.append(culprit.request.id)
                del self.live[culprit.request.id]
            return
        given, self._has = self._has, {}
        for number, each in given.items():
            each.answered.append(7)
            each.losses = 0
            del self.live[number]
            self.trials.settle(each)


@given(st.sets(st.integers(0, 9), max_size=3), st.lists(st.integers(0, 3), min_size=10, max_size=10))
def test_every_culprit_and_nobody_else(poison: set[int], pauses: list[int]) -> None:
    engine = Engine(poison)
    for number, pause in enumerate(pauses):
        engine.ask(number)
        for _ in range(pause):
            engine.go_on()
    for _ in range(200):
        engine.go_on()
    assert engine.live == {}
    assert set(engine.blamed) == poison
    assert engine.deaths <= (MAX_LOSSES + 1) * len(poison)


def test_who_leaves_while_others_are_on_trial_is_not_submitted() -> None:
    submitted: list[int] = []
    trials = Trials(lambda taken: submitted.append(taken.request.id))
    first, second, third = stream(1), stream(2), stream(3)
    for each in (first, second, third):
        each.losses = MAX_LOSSES - 1
    trials.resume([first, second, third])
    assert submitted == [1] and trials.accused is first
    trials.leave(second)
    trials.leave(first)
    assert submitted == [1, 3] and trials.accused is third
    late = stream(4)
    trials.offer(late, is_ready=True)
    assert submitted == [1, 3]
    trials.settle(third)
    assert submitted == [1, 3, 4] and trials.accused is None


def test_nobody_is_convicted_beside_one_that_was_cleared() -> None:
    """Either may have done it, or somebody from outside; next time the suspect has the engine for itself."""
    submitted: list[int] = []
    trials = Trials(lambda taken: submitted.append(taken.request.id))
    first, second = stream(1), stream(2)
    first.losses = second.losses = MAX_LOSSES - 1
    trials.resume([first, second])
    first.losses = 0
    trials.settle(first)
    assert submitted == [1, 2] and trials.accused is second
    assert trials.resume([first, second]) is None
    assert submitted == [1, 2, 2] and trials.accused is second
    assert trials.resume([first, second]) is second
    assert submitted == [1, 2, 2, 1]


def test_nobody_is_convicted_for_a_suspect_that_left() -> None:
    """It has hung the engine, which hears of no cancellation any more, and whoever comes next finds it so."""
    submitted: list[int] = []
    trials = Trials(lambda taken: submitted.append(taken.request.id))
    poison, innocent = stream(1), stream(2)
    poison.losses = innocent.losses = MAX_LOSSES - 1
    trials.resume([poison, innocent])
    trials.leave(poison)
    assert submitted == [1, 2] and trials.accused is innocent
    assert trials.resume([innocent]) is None
    assert submitted == [1, 2, 2] and trials.accused is innocent
    assert trials.resume([innocent]) is innocent


def test_an_engine_that_is_well_after_a_suspect_left_owes_it_nothing() -> None:
    trials = Trials(lambda taken: None)
    left, well, poison = stream(1), stream(2), stream(3)
    for each in (left, well, poison):
        each.losses = MAX_LOSSES - 1
    trials.resume([left, well, poison])
    trials.leave(left)
    trials.settle(well)
    assert trials.accused is poison
    assert trials.resume([poison]) is poison


def test_a_token_clears_a_stream_of_suspicion() -> None:
    """Losses count in a row."""

    async def scenario() -> None:
        each = stream(1)
        each.losses = MAX_LOSSES
        each.put(Token(1, 7))
        assert each.losses == 0

    asyncio.run(scenario())
