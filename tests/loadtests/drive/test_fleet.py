"""Real processes against a real fake server: what is sure whatever else this machine does."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.drive import DriveConfig, Progress, Run, drive
from loadtests.drive.fleet import _shards
from loadtests.drive.grpc_target import GrpcTarget
from loadtests.drive.store import load, save
from loadtests.fake import Fake, Script, faking
from loadtests.figures import LoadTestError
from loadtests.measure import measure
from loadtests.workload import Answers, Arrivals, Popularity, Request, Spec, Workload, make

SPEC = Spec(
    arrivals=Arrivals(rate=200.0, duration=0.5), popularity=Popularity(adapters=3), answers=Answers(tokens=6)
)
SCRIPT = Script(first_ms=10.0, token_ms=2.0, slots=2, load_ms=3.0, fail_every=10)


@pytest.fixture(scope="module")
def driven() -> tuple[Workload, Run, Fake, float, list[tuple[float, Progress]]]:
    workload, starts, heard = make(SPEC), [], []
    with faking(SCRIPT) as fake:
        target, config = GrpcTarget(fake.address), DriveConfig(processes=2)
        run = drive(workload, target, config, lambda s, p: heard.append((s, p)), starts.append)
    return workload, run, fake, starts[0], heard


Driven = tuple[Workload, Run, Fake, float, list[tuple[float, Progress]]]


def test_every_request_has_its_record(driven: Driven) -> None:
    workload, run, fake, _, heard = driven
    assert [r.index for r in run.records] == [r.index for r in workload.requests]
    failed = {r.index for r in run.records if r.outcome == "unavailable"}
    assert failed == {r.index for r in workload.requests if r.index % 10 == 9}
    assert all(r.is_ok and list(r.counts) == [1] * 6 for r in run.records if r.index not in failed)
    assert set(fake.book) == {r.index for r in run.records} - failed
    assert heard[-1][1].sent == len(run.records) and heard[-1][1].failed == len(failed)


def test_times_agree_with_the_servers_own_book(driven: Driven) -> None:
    """On one clock nothing arrives before it was sent, whatever the machine does besides."""
    _, run, fake, start, _ = driven
    for record in (r for r in run.records if r.is_ok):
        book = fake.book[record.index]
        assert record.scheduled <= record.sent <= book["came"] - start
        assert all(got >= sent - start for got, sent in zip(record.times, book["sent"], strict=True))
        assert record.times[-1] <= record.end


def test_what_the_server_says_of_adapters_is_kept(driven: Driven) -> None:
    _, run, _, _, _ = driven
    answered = [r for r in run.records if r.is_ok]
    assert {r.version for r in answered} == {f"{r.adapter}@1" for r in answered}
    assert all(len(r.digest) == 64 for r in answered)
    assert {r.is_cold for r in answered} == {True, False}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_run_is_measured_again_from_its_file(driven: Driven, ending: str, tmp_path: Path) -> None:
    run = driven[1]
    save(run, file := tmp_path / f"run.{ending}")
    # Not a number differs from itself: compared as text.
    assert repr(load(file)) == repr(run)
    assert repr(measure(load(file))) == repr(measure(run))


def test_files_that_hold_no_run(tmp_path: Path) -> None:
    (file := tmp_path / "run.jsonl").write_text("{}\n")
    with pytest.raises(LoadTestError, match="holds no run"):
        load(file)
    with pytest.raises(LoadTestError, match=r"must end in .jsonl or .parquet"):
        load(tmp_path / "run.csv")


def test_more_streams_than_one_connection_takes() -> None:
    """The server allows 256 on a connection, and answers nobody before all 600 are there."""
    burst = tuple(Request(index, 0.0, "default", "", 8, 2) for index in range(600))
    with faking(Script(gather=600)) as fake:
        run = drive(Workload("burst", 0, 1.0, 0, burst), GrpcTarget(fake.address))
    assert {r.outcome for r in run.records} == {"ok"}


def test_answers_that_do_not_end_in_time() -> None:
    with faking(Script(first_ms=1.0, token_ms=60_000.0)) as fake:
        run = drive(make(SPEC), GrpcTarget(fake.address), DriveConfig(drain_seconds=0.2))
    assert {r.outcome for r in run.records} == {"unfinished"}
    assert {r.tokens for r in run.records} == {1}
    assert measure(run).backlog == len(run.records)


def test_requests_longer_than_the_context_are_refused_before_the_start() -> None:
    long = make(replace(SPEC, answers=Answers(tokens=2 << 20)))
    with faking(Script()) as fake, pytest.raises(LoadTestError, match="the longest request has 2097"):
        drive(long, GrpcTarget(fake.address))


def test_uploads_without_an_adapter_to_make_them_from_are_refused() -> None:
    churn = make(replace(SPEC, popularity=Popularity(kind="churn", adapters=2, upload_rate=8.0)))
    with faking(Script()) as fake, pytest.raises(LoadTestError, match="--adapter"):
        drive(churn, GrpcTarget(fake.address))


def test_uploads_have_a_process_of_their_own(tmp_path: Path) -> None:
    churn = make(replace(SPEC, popularity=Popularity(kind="churn", adapters=2, upload_rate=8.0)))
    *asking, bringing = _shards(churn, GrpcTarget("x:1"), DriveConfig(processes=2, template=tmp_path))
    assert bringing.uploads == churn.uploads != () and bringing.requests == ()
    assert [each.uploads for each in asking] == [(), ()]
    assert sorted(r.index for each in asking for r in each.requests) == [r.index for r in churn.requests]


def test_where_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(LoadTestError, match="DEADLINE_EXCEEDED"):
            drive(make(SPEC), GrpcTarget(address, ready_seconds=0.2))
