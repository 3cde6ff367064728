"""The arithmetic against queues that were played out, and the command over a run against a fake server."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loadtests.drive import drive
from loadtests.drive.grpc_target import GrpcTarget
from loadtests.drive.store import save
from loadtests.fake import Script, faking
from loadtests.figures import LoadTestError
from loadtests.plan.command import against
from loadtests.plan.estimate import Room, estimate, resident_share, room_of
from loadtests.plan.options import PlanOptions
from loadtests.plan.steps import StepTable
from loadtests.workload import Answers, Arrivals, Popularity, Prompts, Spec, make
from lorikeet.cli.main import main

TABLE = StepTable((1, 8, 64), (0.010, 0.012, 0.040), prefill=10_000.0, load=0.5)
ROOM = Room(0, 0, 0, 0, adapters=64, cache_tokens=1_000_000)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """What `loadtest step` writes."""
    steps = [
        {"quantization": "nf4", "batch": batch, "mix": "all", "step_ms": seconds * 1e3}
        for batch, seconds in zip(TABLE.batches, TABLE.seconds, strict=True)
    ]
    prefills = [{"quantization": "nf4", "mix": "all", "tokens_per_second": TABLE.prefill}]
    written = {"steps": steps[::-1], "prefills": prefills, "adapter_copy_ms": TABLE.load * 1e3}
    (path := tmp_path / "step.json").write_text(json.dumps(written))
    return path


def options(file: Path, **changes: object) -> PlanOptions:
    return PlanOptions(step=str(file), **changes)  # type: ignore[arg-type]


def test_steps_are_read_and_lie_between_the_measured_ones(file: Path) -> None:
    table = StepTable.read(file, "nf4")
    assert table == TABLE
    assert (table.step(0.5), table.step(4.5), table.step(36)) == pytest.approx((0.010, 0.011, 0.026))
    with pytest.raises(LoadTestError, match="--quantizations int8"):
        StepTable.read(file, "int8")


def test_requests_under_way_keep_littles_law(file: Path) -> None:
    asked = options(file, rate=4.0, prompt=100.0, answer=100.0, tenants=10)
    found = estimate(asked, TABLE, ROOM)
    prompts = 4.0 * 100 / TABLE.prefill
    assert found.running == pytest.approx(4.0 * 100 * TABLE.step(found.running) / (1 - prompts), rel=1e-6)
    assert found.per_token == pytest.approx(TABLE.step(found.running) / (1 - prompts), rel=1e-6)
    assert found.fits and found.cold == 0


def test_what_does_not_fit_is_said_with_the_rate_that_does(file: Path) -> None:
    asked = options(file, rate=1000.0, answer=100.0, prompt=100.0)
    found = estimate(asked, TABLE, ROOM)
    assert not found.fits
    # 64 at once, 100 steps of 40 ms each, and 64 prompts of 100 tokens between them.
    assert found.most_rate == pytest.approx(64 / (100 * 0.040 + 64 * 100 / TABLE.prefill))
    assert estimate(replace(asked, rate=found.most_rate * 0.99), TABLE, ROOM).fits
    small = replace(ROOM, cache_tokens=150 * 8)
    assert estimate(asked, TABLE, small).most_rate == pytest.approx(8 / (100 * 0.012 + 800 / TABLE.prefill))


@pytest.mark.parametrize(("alpha", "held"), [(1.0, 8), (1.0, 32), (0.5, 16), (2.0, 4)])
def test_the_share_of_resident_adapters_is_that_of_a_cache_played_out(alpha: float, held: int) -> None:
    shares = np.arange(1, 65) ** -alpha
    asked = np.random.default_rng(0).choice(64, size=20_000, p=shares / shares.sum())
    cache: dict[int, None] = {}
    hits = 0
    for adapter in asked.tolist():
        hits += adapter in cache
        cache.pop(adapter, None)
        cache[adapter] = None
        if len(cache) > held:
            del cache[next(iter(cache))]
    assert resident_share(64, alpha, held) == pytest.approx(hits / len(asked), abs=0.02)
    assert resident_share(64, alpha, 64) == 1.0


def test_memory_is_divided_as_the_server_does(file: Path) -> None:
    room = room_of(options(file, memory=139.8, rank=16))
    # An 8B in 4 bits, and what that server printed at start: 5.44, 5.00 and 2.09 GiB.
    assert (room.base / 2**30, room.adapter_memory / 2**30) == pytest.approx((5.44, 5.0), rel=0.02)
    assert room.adapters == 64
    ranks = [room_of(options(file, rank=rank, adapter_slots=999)).adapters for rank in (8, 16, 64)]
    assert ranks == sorted(ranks, reverse=True) and ranks[0] > 3 * ranks[2]
    assert room_of(options(file, memory=2.0)).cache_tokens == 0


def test_an_estimate_is_held_against_a_run(file: Path) -> None:
    """A server whose steps take what the table says: 2 ms a token, 10 ms for the first."""
    spec = Spec(
        arrivals=Arrivals(rate=40.0, duration=1.0),
        popularity=Popularity(adapters=2),
        prompts=Prompts(tokens=100),
        answers=Answers(tokens=20),
    )
    with faking(Script(first_ms=10.0, token_ms=2.0)) as fake:
        run = drive(make(spec), GrpcTarget(fake.address))
    steps = StepTable((1, 64), (0.002, 0.002), prefill=10_000.0, load=0.0)
    errors = against(options(file), steps, ROOM, run)
    assert errors["between tokens, s"]["estimate"] > 0.002
    for each in errors.values():
        assert each["error"] == pytest.approx(each["estimate"] / each["measured"] - 1)
    # The server kept its delays or took longer: no estimate from them is far above.
    assert errors["between tokens, s"]["error"] < 1.0


def test_the_command_says_whether_it_fits(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = Spec(arrivals=Arrivals(rate=20.0, duration=0.5), answers=Answers(tokens=4))
    with faking(Script()) as fake:
        save(drive(make(spec), GrpcTarget(fake.address)), tmp_path / "run.jsonl")
    words = ["loadtest", "plan", "--step", str(file), "--tenants", "500", "--rate"]
    told = ["--measured", str(tmp_path / "run.jsonl"), "--json", str(tmp_path / "plan.json")]
    assert main([*words, "2", *told]) == 0
    assert "off by" in capsys.readouterr().out
    assert json.loads((tmp_path / "plan.json").read_text())["errors"]["first token, s"]["measured"] > 0
    assert main([*words, "900"]) == 1
    assert "DOES NOT FIT" in capsys.readouterr().out


def test_no_plan_without_measured_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loadtest", "plan"]) == 2
    assert "measure the device first" in capsys.readouterr().err
    assert main(["loadtest", "plan", "--step", "/no/such", "--rank", "0"]) == 2
    assert "rank 0 must be" in capsys.readouterr().err
