"""An alias that takes a new version through its stages, by records written by hand."""

import math
from pathlib import Path
from typing import Any

import pytest

from loadtests.drive.records import Record, Run, Shift
from loadtests.drive.store import load, save
from loadtests.measure import measure
from loadtests.measure.rollout import goes_back, rollout
from tests.loadtests.measure.records import record

ROLES = {"a@1": "old", "a@2": "new"}


def shift(at: float, new: float) -> Shift:
    return Shift(at, at + 0.5, {"old": 1 - new, "new": new}, ROLES)


def asked(index: int, at: float, version: int, first: float = 0.1, **options: Any) -> Record:
    options = {"session": f"s{index}", **options}
    return record(index, at, (first, 1), (first + 0.1, 1), version=f"a@{version}", **options)


def run_of(*records: Record, news: tuple[float, ...] = (0.0, 0.5)) -> Run:
    return Run("r", "t", 0, 20.0, 0.0, list(records), shifts=[shift(10.0 * n, x) for n, x in enumerate(news)])


BEFORE = [asked(n, 1.0 + n, 1) for n in range(4)]


def test_parts_are_those_of_each_stage() -> None:
    found = rollout(
        run_of(*BEFORE, asked(4, 11.0, 1), asked(5, 12.0, 2), asked(6, 13.0, 2), asked(7, 14.0, 2))
    )
    assert [len(stage.records) for stage in found.stages] == [4, 4]
    assert [stage.part("new") for stage in found.stages] == [0.0, 0.75]
    assert found.worst_part == 0.25 and found.split == found.returns == 0
    # Four sessions, each new by a chance of a half: a standard deviation is a quarter.
    assert found.surprise == pytest.approx(1.0)


def test_sessions_that_ask_more_make_chance_larger() -> None:
    found = rollout(run_of(*BEFORE, *(asked(n, 11.0 + n / 10, 2, session="one") for n in range(4))))
    assert (found.worst_part, found.surprise) == (0.5, pytest.approx(1.0))


def test_who_was_to_get_nothing_and_got_something_is_no_chance() -> None:
    assert rollout(run_of(*BEFORE, asked(4, 5.0, 2), asked(5, 12.0, 1))).surprise == math.inf


def test_requests_that_met_a_shift_count_in_no_stage() -> None:
    """Sent before it, or while it was made, and answered after: either version is right."""
    early, amid = asked(4, 9.5, 2, first=1.0), asked(5, 10.2, 1)
    found = rollout(run_of(*BEFORE, early, amid, asked(6, 11.0, 2)))
    assert [len(stage.records) for stage in found.stages] == [4, 1]


def test_a_session_keeps_its_version_within_a_stage_and_never_returns() -> None:
    split = run_of(*BEFORE, asked(4, 11.0, 2, session="s"), asked(5, 12.0, 1, session="s"))
    assert (rollout(split).split, rollout(split).returns) == (1, 0)
    back = run_of(*BEFORE, asked(4, 5.0, 2, session="s"), asked(5, 12.0, 1, session="s"))
    assert (rollout(back).split, rollout(back).returns) == (0, 0)
    again = [asked(n, at, v, session="s") for n, (at, v) in enumerate(((1, 1), (2, 2), (11, 1)))]
    assert rollout(run_of(*again)).returns == 1
    alone = run_of(*BEFORE, asked(4, 11.0, 2, session=""), asked(5, 12.0, 1, session=""))
    assert rollout(alone).split == 0


@pytest.mark.parametrize(
    ("roles", "does"),
    [((), False), (("old",), False), (("old", "old", "new"), False), (("old", "new", "old"), True)],
)
def test_going_back(roles: tuple[str, ...], does: bool) -> None:
    assert goes_back(roles) is does


def test_a_latency_that_steps_up_with_a_stage() -> None:
    slower = [asked(4 + n, 11.0 + n, n % 2 + 1, first=0.3) for n in range(4)]
    found = rollout(run_of(*BEFORE, *slower))
    assert found.first_token_step == pytest.approx(3.0) and found.per_token_step == pytest.approx(1.0)
    # Nothing is known of a stage without answers.
    assert math.isnan(rollout(run_of(*BEFORE, *slower, news=(0.0, 0.5, 1.0))).first_token_step)


def test_a_run_without_shifts_has_no_rollout(tmp_path: Path) -> None:
    nothing = rollout(run_of(*BEFORE, news=()))
    assert nothing.stages == () and math.isnan(nothing.worst_part)
    save(run := run_of(*BEFORE, asked(4, 12.0, 2)), tmp_path / "run.jsonl")
    assert repr(measure(load(tmp_path / "run.jsonl")).rollout) == repr(measure(run).rollout)
