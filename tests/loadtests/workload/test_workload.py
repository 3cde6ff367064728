import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.figures import LoadTestError
from loadtests.workload import (
    PRESETS,
    Answers,
    Arrivals,
    Popularity,
    Prompts,
    Spec,
    Tenant,
    Workload,
    make,
    preset,
)

SPEC = Spec(
    name="two",
    arrivals=Arrivals(rate=40.0, duration=50.0),
    popularity=Popularity(kind="zipf", adapters=3, base_share=0.2),
    prompts=Prompts(kind="lognormal", tokens=50, shared=8),
    answers=Answers(kind="uniform", low=2, high=9),
    tenants=(Tenant(name="a", share=3.0), Tenant(name="b")),
)


def test_a_seed_decides_everything(tmp_path: Path) -> None:
    workload = make(SPEC, seed=4)
    assert make(SPEC, seed=4) == workload
    assert make(SPEC, seed=5).requests != workload.requests
    workload.save(tmp_path / "w.jsonl")
    assert Workload.load(tmp_path / "w.jsonl") == workload


def test_one_part_can_change_alone() -> None:
    before, after = make(SPEC), make(replace(SPEC, answers=Answers(tokens=7)))
    assert [r.prompt_tokens for r in before.requests] == [r.prompt_tokens for r in after.requests]
    assert [r.at for r in before.requests] == [r.at for r in after.requests]
    assert {r.answer_tokens for r in after.requests} == {7}


def test_tenants_have_their_shares_and_adapters_of_their_own() -> None:
    workload = make(SPEC)
    asked = [r.tenant for r in workload.requests]
    assert asked.count("a") / len(asked) == pytest.approx(0.75, abs=0.05)
    assert workload.adapters() == {t: [f"load-{t}-{n:04d}" for n in range(3)] for t in "ab"}
    assert all(r.adapter in ("", *workload.adapters()[r.tenant]) for r in workload.requests)


def test_churn_asks_for_an_adapter_once_it_was_brought() -> None:
    churn = Popularity(kind="churn", adapters=4, alpha=1.0, upload_rate=0.5)
    workload = make(replace(SPEC, popularity=churn))
    assert [u.at for u in workload.uploads[:3]] == [1.0, 3.0, 5.0]
    assert len({u.variant for u in workload.uploads}) == len(workload.uploads) == 25
    due = {(u.tenant, u.adapter): u.at for u in workload.uploads}
    assert {a for names in workload.adapters().values() for a in names}.isdisjoint(a for _, a in due)
    assert all(r.at >= due.get((r.tenant, r.adapter), 0.0) for r in workload.requests)
    last = [r.adapter for r in workload.requests if r.at > 45 and r.tenant == "a"]
    assert max(set(last), key=last.count) > "load-a-0004"


def test_adapters_that_are_there_stand_for_the_workloads() -> None:
    before = make(replace(SPEC, tenants=(Tenant(),)))
    after = before.renamed(["mine", "yours"])
    pairs = {(b.adapter, a.adapter) for b, a in zip(before.requests, after.requests, strict=True)}
    names = ["mine", "yours", "mine"]
    assert pairs == {("", ""), *((f"load-default-{n:04d}", name) for n, name in enumerate(names))}


def test_a_trace_says_what_it_knows_and_the_rest_is_drawn(tmp_path: Path) -> None:
    rows = [{"at": 5.0, "adapter": "mine", "answer_tokens": 3}, {"at": 6.5, "prompt_tokens": 11}]
    (file := tmp_path / "trace.jsonl").write_text("\n".join(map(json.dumps, rows)))
    workload = make(replace(SPEC, arrivals=Arrivals(kind="trace", file=str(file))))
    first, second = workload.requests
    assert (first.at, first.adapter, first.answer_tokens) == (0.0, "mine", 3)
    assert (second.at, second.prompt_tokens) == (1.5, 11)
    assert first.prompt_tokens >= 1 and workload.duration == 1.5


def test_presets_are_s_loras_settings() -> None:
    table = PRESETS["slora-a100-80-table"]
    assert (table.arrivals.rate, table.arrivals.cv, table.arrivals.duration) == (10.0, 1.0, 120.0)
    assert (table.popularity.kind, table.popularity.alpha) == ("power", 1.0)
    workload = make(preset("slora-a100-80-table", adapters=5))
    assert len(workload.adapters()["default"]) == 5
    for lengths in (
        [r.prompt_tokens for r in workload.requests],
        [r.answer_tokens for r in workload.requests],
    ):
        assert 8 <= min(lengths) < 20 and 500 < max(lengths) < 512
    with pytest.raises(LoadTestError, match="did you mean slora-h100"):
        preset("slora-h10")


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: Arrivals(kind="trace"), "`file`"),
        (lambda: Arrivals(rate=0.0), "rate 0.0 must be"),
        (lambda: Popularity(kind="zip"), "'zip' is none of"),
        (lambda: Answers(kind="uniform", low=5, high=5), "low 5 must be less"),
        (lambda: Answers(kind="file", file="/no/such"), "no file"),
        (lambda: Spec(tenants=(Tenant(), Tenant())), "of its own"),
    ],
)
def test_what_cannot_be_is_refused(build: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build()  # type: ignore[operator]


def test_files_that_are_no_workload(tmp_path: Path) -> None:
    (tmp_path / "w").write_text('{"name": 1}\n')
    with pytest.raises(LoadTestError, match="holds no workload"):
        Workload.load(tmp_path / "w")
    with pytest.raises(LoadTestError, match="no request"):
        make(Spec(arrivals=Arrivals(rate=1e-6, duration=1.0)))
