"""Storms over more adapters than there is room for, played small against real servers."""

import json
from array import array
from pathlib import Path

import pytest

from loadtests.drive.records import OK, Record, Run
from loadtests.random_house import write_adapter, write_house
from loadtests.thrash.command import run, served
from loadtests.thrash.config import ZIPF_RANK, ZIPF_TARGETS, ThrashConfig
from loadtests.thrash.goals import judge
from loadtests.thrash.storms import Storm, play_storms, workload_of
from loadtests.thrash.uploads import UploadFigures, play_uploads
from loadtests.thrash.zipf import ZipfFigures, play_zipf

SMALL = ThrashConfig(
    model="tiny",
    device="cpu",
    adapters="2,4",
    room=2,
    rank=4,
    rate=8,
    seconds=1,
    prompt=12,
    answer=4,
    host_cache_bytes=1 << 20,
    uploads=2,
    zipf_adapters=6,
    zipf_requests=12,
    zipf_processes=1,
    zipf_slots=3,
)


@pytest.mark.long
def test_all_parts_are_played_and_reported(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert run(ThrashConfig(**vars(SMALL) | {"all": True, "json": str(file)})) == 0
    told = json.loads(file.read_text())
    assert [storm["adapters"] for storm in told["storms"]] == [2, 4]
    assert told["uploads"]["uploads"] == 2 and told["zipf"]["requests"] > 0 and told["goals"] == []


def test_parts_are_played_against_a_server(tmp_path: Path) -> None:
    template = write_adapter("tiny", 4, tmp_path / "adapter")
    write_house("tiny", tmp_path)
    with served(SMALL, tmp_path, ["--adapter-slots", "2"]) as target:
        storms = play_storms(SMALL, target, template)
        uploads = play_uploads(SMALL, target, template)
        zipf = play_zipf(SMALL, target, template)
    assert [storm.adapters for storm in storms] == [2, 4]
    assert all(storm.first_p50 > 0 and storm.throughput > 0 for storm in storms)
    assert 0 < uploads.servable <= uploads.servable_longest
    assert uploads.uploads == 2 and uploads.beside.requests == storms[0].requests
    assert 1 < zipf.asked_for <= 6 and min(zipf.few, zipf.many) > 0


def test_storms_come_at_the_same_instants_with_prompts_of_their_own() -> None:
    few, many = workload_of(SMALL, 2), workload_of(SMALL, 4)
    assert [r.at for r in few.requests] == [r.at for r in many.requests] and few.seed != many.seed
    assert {r.adapter for r in many.requests} > {r.adapter for r in few.requests}


def test_figures_are_of_what_was_heard() -> None:
    records = [
        Record(i, "t", "a", 1, 2, due, due, due + last, OK, times=times(due, first, last), counts=ONE_EACH)
        for i, (due, first, last) in enumerate([(0.0, 0.010, 0.012), (1.0, 0.030, 2.0)])
    ]
    found = Storm.of(3, Run("", "", 0, 1.5, 0.0, records))
    assert (found.adapters, found.requests) == (3, 2)
    assert found.first_p50 == pytest.approx(20.0) and found.throughput == pytest.approx(4 / 3)


ONE_EACH = array("I", [1, 1])


def times(due: float, *after: float) -> "array[float]":
    return array("d", [due + seconds for seconds in after])


def storm(adapters: int, slow: float = 1.0) -> Storm:
    return Storm(adapters, 10, 30.0 * slow, 60.0, 8.0 * slow, 500.0 / slow)


@pytest.mark.parametrize(("slow", "missed"), [(1.0, 0), (1.15, 2), (1.3, 4), (3.0, 5)])
def test_goals_are_missed_by_what_is_worse_than_the_first(slow: float, missed: int) -> None:
    uploads = UploadFigures(84.0, 0.5, 0.6, 50, 0.7, storm(8, slow))
    zipf = ZipfFigures(1000, 300, 800, 1000.0, 1000.0 / max(1.0, slow - 0.15))
    goals = judge([storm(8), storm(16, slow)], uploads, zipf)
    assert sum(not goal.is_met for goal in goals) == missed
    assert len(judge([storm(8), storm(16)], None, None)) == 4


def test_bytes_of_an_adapter_are_those_of_its_linears() -> None:
    """Rank 16 on all linears of the 8b shape is 84 MB in bfloat16, and rank 8 of its attention 13.6 MB."""
    config = ThrashConfig(device="cuda")
    assert config.adapter_bytes(16) == 83_886_080
    assert config.adapter_bytes(ZIPF_RANK, ZIPF_TARGETS) == 13_631_488


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="no numbers with commas"):
        ThrashConfig(adapters="8,many")
