"""How long an engine has been silent, and since when that is worth knowing."""

from server.pulse import Pulse


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_silence_counts_from_the_last_word_or_the_first_that_waits() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    clock.now = 100.0
    pulse.ask()
    assert pulse.silence == 0.0
    for clock.now in (103.0, 106.0):
        pulse.ask()
    assert pulse.silence == 6.0, "who asks again does not make it younger"
    pulse.beat()
    clock.now = 200.0
    assert pulse.silence == 94.0
    pulse.ask()
    assert pulse.silence == 0.0
