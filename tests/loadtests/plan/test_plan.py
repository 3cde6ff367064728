"""The arithmetic against queues that were played out, and the command over a run against a fake server."""

import json
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from loadtests.drive import drive
from loadtests.drive.grpc_target import GrpcTarget
from loadtests.drive.store import save
from loadtests.fake import Script, faking
from loadtests.figures import LoadTestError
from loadtests.plan.command import against, alpha_of
from loadtests.plan.estimate import Room, different, estimate, queue_seconds, resident_share, room_of
from loadtests.plan.options import PlanOptions
from loadtests.plan.steps import StepTable
from loadtests.workload import Answers, Arrivals, Popularity, Prompts, Spec, make
from lorikeet.cli.main import main

EACH, BARE = (0.010, 0.012, 0.040), (0.008, 0.010, 0.020)
TABLE = StepTable((1, 8, 64), EACH, BARE, prompt_token=1e-4, load=0.5)
# Of a step with 8 prompts, 800 tokens in all: 12 ms for its answers, 80 for the tokens.
PREFILL = {"quantization": "nf4", "mix": "all", "tokens_per_second": 800 / 0.092, "prompts": 8, "tokens": 800}
ROOM = Room(0, 0, 0, 0, adapters=64, cache_tokens=1_000_000)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """What `loadtest step` writes."""
    steps = [
        {"quantization": "nf4", "batch": batch, "mix": mix, "step_ms": seconds * 1e3}
        for mix, row in (("all", EACH), ("none", BARE))
        for batch, seconds in zip(TABLE.batches, row, strict=True)
    ]
    written = {"steps": steps[::-1], "prefills": [PREFILL], "adapter_copy_ms": TABLE.load * 1e3}
    (path := tmp_path / "step.json").write_text(json.dumps(written))
    return path


def options(file: Path, **changes: object) -> PlanOptions:
    return PlanOptions(step=str(file), **changes)  # type: ignore[arg-type]


def test_steps_are_read_and_lie_between_the_measured_ones(file: Path) -> None:
    table = StepTable.read(file, "nf4")
    assert replace(table, prompt_token=1e-4) == TABLE and table.prompt_token == pytest.approx(1e-4)
    assert (table.step(0.5), table.step(4.5), table.step(36)) == pytest.approx((0.010, 0.011, 0.026))
    # Adapters that several share cost a part of what one each would.
    assert (table.step(64, 0), table.step(64, 16), table.step(64, 99)) == pytest.approx((0.02, 0.025, 0.04))
    with pytest.raises(LoadTestError, match="--quantizations int8"):
        StepTable.read(file, "int8")


@dataclass
class Running:
    """A request in the queue that is played out."""

    came: float
    adapter: int
    prompt: int
    left: int
    first: float = 0.0


def play_out(asked: PlanOptions, table: StepTable, seconds: float, most: int) -> tuple[float, float, float]:
    """Requests by chance, one step after another: mean under way, between tokens and to the first token."""
    numbers, now = np.random.default_rng(0), 0.0
    count = int(asked.rate * seconds)
    arrivals = np.cumsum(numbers.exponential(1 / asked.rate, count)).tolist()
    shares = np.arange(1, asked.tenants + 1) ** -asked.alpha
    adapters = numbers.choice(asked.tenants, size=count, p=shares / shares.sum()).tolist()
    waiting = deque(
        Running(at, adapter, int(asked.prompt), int(asked.answer))
        for at, adapter in zip(arrivals, adapters, strict=True)
    )
    running: list[Running] = []
    done: list[tuple[float, float, float]] = []
    while waiting or running:
        if not running and waiting[0].came > now:
            now = waiting[0].came
        while waiting and waiting[0].came <= now and len(running) < most:
            running.append(waiting.popleft())
        prompts = sum(each.prompt for each in running if not each.first)
        adapters_there = len({each.adapter for each in running})
        step = table.step(len(running), adapters_there) + (table.prompt(prompts) if prompts else 0.0)
        now += step
        for each in running:
            each.first, each.left = each.first or now, each.left - 1
            if not each.left:
                between = (now - each.first) / (asked.answer - 1)
                done.append((now - each.came, between, each.first - each.came))
        running = [each for each in running if each.left]
    whole, gaps, firsts = np.asarray(done).T
    return float(whole.sum() / now), float(gaps.mean()), float(firsts.mean())


@pytest.mark.parametrize(
    ("rate", "prompt", "answer", "alpha"),
    [(0.5, 100, 40, 1.0), (4, 100, 100, 1.0), (12, 200, 60, 0.5), (20, 50, 60, 1.0), (16, 400, 30, 1.5)],
)
def test_the_estimate_is_near_a_queue_that_is_played_out(
    rate: float, prompt: float, answer: float, alpha: float, file: Path
) -> None:
    asked = options(file, rate=rate, prompt=prompt, answer=answer, tenants=50, alpha=alpha, front_ms=0.0)
    found, played = estimate(asked, TABLE, ROOM), play_out(asked, TABLE, 300 / rate**0.5, 64)
    assert found.cold == 0 and found.running == pytest.approx(played[0], rel=0.15)
    assert found.per_token == pytest.approx(played[1], rel=0.1)
    assert found.first_token == pytest.approx(played[2], rel=0.1)


def test_a_step_with_prompts_costs_more_than_their_tokens(file: Path) -> None:
    """A full step takes 80 ms for 800 tokens, one of 100 tokens 24 and not 10: 8 for tokens, 16 besides."""
    results = json.loads(file.read_text())
    one = {**PREFILL, "prompts": 1, "tokens": 100, "tokens_per_second": 100 / (EACH[0] + 0.024)}
    table = StepTable.of({**results, "prefills": [PREFILL, one]}, "nf4")
    assert (table.prompt_token, table.prompt_step) == pytest.approx((8e-5, 0.016))
    asked = options(file, rate=4.0, prompt=100.0, answer=60.0, tenants=50, front_ms=0.0)
    found, played = estimate(asked, table, ROOM), play_out(asked, table, 150, 64)
    assert found.per_token == pytest.approx(played[1], rel=0.1)
    assert found.first_token == pytest.approx(played[2], rel=0.1)
    assert found.first_token > estimate(asked, TABLE, ROOM).first_token + 0.01


def test_what_does_not_fit_is_said_with_the_rate_that_does(file: Path) -> None:
    asked = options(file, rate=1000.0, answer=100.0, prompt=100.0)
    found = estimate(asked, TABLE, ROOM)
    assert not found.fits and found.most_rate < 64 / (100 * 0.020)
    assert estimate(replace(asked, rate=found.most_rate * 0.99), TABLE, ROOM).fits
    assert not estimate(replace(asked, rate=found.most_rate * 1.01), TABLE, ROOM).fits
    small = replace(ROOM, cache_tokens=150 * 8)
    assert estimate(asked, TABLE, small).most_rate < found.most_rate


def test_who_finds_no_place_waits(file: Path) -> None:
    """Erlang's table: 8 places, 6 asked for on average: 35.7 % wait, for half of an answer's time."""
    assert queue_seconds(6.0, 8, 1.0) == pytest.approx(0.357 / 2, abs=1e-3)
    assert queue_seconds(0.5, 64, 1.0) == pytest.approx(0.0, abs=1e-9)
    assert queue_seconds(8.0, 8, 1.0) == 1.0


def test_how_unlike_adapters_were_asked_for_is_read_from_a_run() -> None:
    shares = np.arange(1, 21) ** -1.2
    drawn = np.random.default_rng(0).choice(20, size=5000, p=shares / shares.sum()).tolist()
    assert alpha_of(drawn) == pytest.approx(1.2, abs=0.1)
    assert alpha_of([]) > 0 and alpha_of(["a"]) > 0
    assert different(10, 1e-6, 1) == pytest.approx(1.0) and different(10, 1e-6, 1000) == pytest.approx(10.0)


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
    steps = StepTable((1, 64), (0.002, 0.002), (0.002, 0.002), prompt_token=8e-5, load=0.0)
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
    (errors,) = json.loads((tmp_path / "plan.json").read_text())["errors"].values()
    assert errors["first token, s"]["measured"] > 0
    assert main([*words, "900"]) == 1
    assert "DOES NOT FIT" in capsys.readouterr().out


def test_a_plan_stands_on_the_steps_of_an_h200_unless_told(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--rank", "16", "--tenants", "500", "--rate", "20"]
    assert main(["loadtest", "plan", "--model", "8B", *words]) == 0
    assert "from the steps of NVIDIA H200" in capsys.readouterr().out
    assert main(["loadtest", "plan", "--model", "1b", *words]) == 1
    assert "measure the device first" in capsys.readouterr().err
    assert main(["loadtest", "plan", "--step", "/no/such", "--rank", "0"]) == 2
    assert "rank 0 must be" in capsys.readouterr().err
    assert main(["loadtest", "plan", "--step", "/no/such"]) == 2
    assert "no such file" in capsys.readouterr().err
