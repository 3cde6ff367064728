"""Plans against an engine on its own processor time: that all is played, and that idle time is skipped."""

import time

import pytest

from loadtests.plan import alone


def test_time_that_is_skipped_or_slept_is_nobodys() -> None:
    clock = alone.OwnTime()
    clock.skip_to(100.0)
    assert 100.0 <= clock() < 101.0
    clock.skip_to(50.0)
    before, wall = clock(), time.monotonic()
    while time.monotonic() - wall < 0.01:
        pass
    assert 100.0 <= before <= clock() <= before + (time.monotonic() - wall) + 1e-3


def test_each_run_is_held_against_the_steps_before_and_after_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = alone.StepConfig(
        **{name: getattr(alone.STEPS, name) for name in ("model", "device", "quantizations", "mixes")},
        batches="1,4",
        prompt=16,
        short=2,
        long=8,
        prefill=32,
        repeats=1,
        check=False,
    )
    monkeypatch.setattr(alone, "STEPS", steps)
    alone.main(["--rates", "4", "--duration", "1"])
    told = capsys.readouterr().out
    assert told.count("steps before") == told.count("steps after") == 3 and "first token" in told
