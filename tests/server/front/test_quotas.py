"""Quotas: the account's books, and what a tenant is told when they are full."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb
from hypothesis import given
from hypothesis import strategies as st

from lorikeet.v1 import inference_pb2 as pb
from server.errors import QuotaExceeded
from server.identity.tenants import Tenant, Tenants, open_tenants, read_tenants
from server.quotas import Bucket, Quotas
from server.text import Text
from tests.server.front.house import PATIENCE, House, Open, batches, refused, script

Code = grpc.StatusCode


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def quotas(clock: Clock, **limits: Any) -> Quotas:
    tenants = Tenants(Tenant(**limits), {})
    return Quotas(lambda: tenants, clock)


@given(st.lists(st.tuples(st.integers(1, 700), st.floats(0, 30), st.booleans()), max_size=40))
def test_a_bucket_gives_no_more_than_its_rate(steps: list[tuple[int, float, bool]]) -> None:
    """In any window: a minute's worth, and what came back since; and the wait it tells is exact."""
    clock, per_minute, taken = Clock(), 600, 0.0
    bucket = Bucket(clock)
    for tokens, seconds, comes_back in steps:
        wait = bucket.take(tokens, per_minute)
        if wait == 0.0:
            taken += tokens
        elif comes_back and tokens <= per_minute:
            clock.now += wait + 1e-6
            assert bucket.take(tokens, per_minute) == 0.0
            taken += tokens
        assert taken <= per_minute + clock.now * per_minute / 60 + 1e-3
        clock.now += seconds


def test_what_was_reserved_and_not_used_comes_back() -> None:
    clock = Clock()
    accounts = quotas(clock, tokens_per_minute=100)
    with accounts.admit("acme", 1) as share:
        share.reserve_answers(1, 60)
        share.reserve_prompt(30)
        with pytest.raises(QuotaExceeded) as caught, accounts.admit("acme", 1) as other:
            other.reserve_answers(1, 20)
        assert caught.value.seconds == pytest.approx(6.0)
        with accounts.admit("other", 1) as free:
            free.reserve_answers(1, 100)
        share.begin()
        share.spend(10)
    with accounts.admit("acme", 1) as share:
        share.reserve_answers(1, 60)
        with pytest.raises(QuotaExceeded):
            share.reserve_prompt(1)
    # Left before its first token: not even the prompt is charged.
    with accounts.admit("acme", 1) as share:
        share.reserve_answers(1, 60)


def test_a_prompt_is_charged_once_for_all_samples() -> None:
    accounts = quotas(Clock(), tokens_per_minute=100)
    with accounts.admit("acme", 3) as share:
        share.reserve_answers(3, 10)
        share.reserve_prompt(40)
        for _ in range(3):
            share.begin()
            share.spend(5)
        assert accounts.num_queued("acme") == 0
    with accounts.admit("acme", 1) as share:
        share.reserve_answers(1, 45)
        with pytest.raises(QuotaExceeded):
            share.reserve_answers(1, 1)


def test_what_can_never_be_has_no_time_to_come_back() -> None:
    accounts = quotas(Clock(), tokens_per_minute=100, max_prompt_tokens=10, max_new_tokens=20)
    for ask in (
        lambda share: share.reserve_answers(6, 20),
        lambda share: share.reserve_answers(1, 21),
        lambda share: share.reserve_prompt(11),
    ):
        with pytest.raises(QuotaExceeded) as caught, accounts.admit("acme", 1) as share:
            ask(share)
        assert caught.value.seconds is None


@pytest.mark.parametrize(("limit", "then"), [("max_in_flight", 3), ("max_queued", 4)])
def test_places_are_counted_by_sequences(limit: str, then: int) -> None:
    accounts = quotas(Clock(), **{limit: 3})
    with ExitStack() as stack:
        share = stack.enter_context(accounts.admit("acme", 2))
        with pytest.raises(QuotaExceeded):
            stack.enter_context(accounts.admit("acme", 2))
        stack.enter_context(accounts.admit("other", 3))
        share.begin()
        held = 2
        while held < 10:
            try:
                stack.enter_context(accounts.admit("acme", 1))
            except QuotaExceeded:
                break
            held += 1
        assert held == then
    with accounts.admit("acme", 3):
        pass


def test_tenants_that_use_nothing_are_forgotten() -> None:
    clock = Clock()
    accounts = quotas(clock, tokens_per_minute=60)
    with accounts.admit("busy", 1):
        for number in range(5000):
            clock.now += 1.0
            with accounts.admit(f"t{number}", 1) as share:
                share.reserve_answers(1, 1)
                share.begin()
                share.spend(1)
        assert len(accounts._accounts) < 1100
        assert accounts.num_queued("busy") == 1


FILE = """
[default]
tokens_per_minute = 500
max_queued = 2
[tenants.acme]
weight = 4
tokens_per_minute = 1000
"""


@pytest.mark.parametrize("is_json", [False, True])
def test_the_file(tmp_path: Path, is_json: bool) -> None:
    path = tmp_path / ("tenants.json" if is_json else "tenants.toml")
    table = {"default": {"tokens_per_minute": 500, "max_queued": 2}}
    content = {**table, "tenants": {"acme": {"weight": 4, "tokens_per_minute": 1000}}}
    path.write_text(json.dumps(content) if is_json else FILE)
    now = open_tenants(path)
    assert now().get("acme") == Tenant(weight=4, tokens_per_minute=1000, max_queued=2)
    assert now().get("other") == Tenant(tokens_per_minute=500, max_queued=2)
    path.write_text("{}" if is_json else "")
    assert now().get("acme") == Tenant()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[tenants.acme]\nwieght = 2", "tenants.acme.*wieght"),
        ("[tenants.acme]\nweight = 0", "above 0"),
        ("[tenants.acme]\nweight = nan", "above 0"),
        ("[default]\nmax_queued = -1", "negative"),
        ("[default]\nmax_queued = 'many'", "default"),
        ("[default]\ncertificates = ['a']", "one tenant"),
        ("[tenants.Acme]", "no tenant"),
        ("[tenants.a]\ncertificates = ['x']\n[tenants.b]\ncertificates = ['x']", "more than one"),
        ("[tenants.a]\ncertificate_scopes = ['root']", "no such scope"),
        ("[other]", "other"),
        ("[", "line 1|end of document"),
    ],
)
def test_files_that_are_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_tenants(text.encode(), is_json=False)


@pytest.fixture
def limited(open_house: Open, tmp_path: Path) -> Callable[[str], House]:
    def open_(table: str) -> House:
        (tmp_path / "tenants.toml").write_text(f"[default]\n{table}")
        return open_house(tenants=tmp_path / "tenants.toml")

    return open_


@pytest.mark.parametrize("limit", ["max_in_flight = 2", "max_queued = 2"])
def test_a_full_tenant_is_told_what_and_when(limited: Any, limit: str, text: Text) -> None:
    house = limited(limit)
    first = house.inference.Generate(pb.GenerateRequest(prompt="x", sampling=pb.Sampling(n=2)))
    house.link.wait(lambda: len(house.link.submitted) == 2)
    refusal = refused(lambda: house.generate())
    assert (refusal.code, refusal.reason) == (Code.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    (violation,) = refusal.detail(details_pb.QuotaFailure).violations
    assert violation.subject == f"tenants/default/{limit.split()[0]}"
    assert refusal.retries
    assert len(house.link.submitted) == 2, "refused before any work"
    first.cancel()
    house.link.wait(lambda: len(house.link.aborted) == 2)
    house.link.script = script(text, "hello")
    house.loop.until(lambda: house.front._generating.num_live == 0)
    assert house.generate()[-1].HasField("finished")


def test_tokens_a_minute_and_lengths(limited: Any, text: Text, tmp_path: Path) -> None:
    house = limited("tokens_per_minute = 40\nmax_new_tokens = 30\nmax_prompt_tokens = 5")
    house.link.script = script(text, "hello")
    assert house.generate()[-1].HasField("finished")
    assert house.link.submitted[-1].sampling.max_new_tokens == 30, "what is left open fits"
    refusal = refused(lambda: house.generate("hello", max_new_tokens=31))
    assert refusal.detail(details_pb.QuotaFailure).violations[0].subject.endswith("max_new_tokens")
    refusal = refused(lambda: house.generate("the cat sat on the mat hello", max_new_tokens=1))
    assert refusal.detail(details_pb.QuotaFailure).violations[0].subject.endswith("max_prompt_tokens")
    refusal = refused(lambda: [house.generate(max_new_tokens=20) for _ in range(20)])
    assert refusal.detail(details_pb.QuotaFailure).violations[0].subject.endswith("tokens_per_minute")
    delay = refusal.detail(details_pb.RetryInfo).retry_delay
    assert 0 < delay.seconds + delay.nanos / 1e9 < 60
    (tmp_path / "tenants.toml").write_text("")
    assert house.generate(max_new_tokens=20)[-1].HasField("finished"), "raised while it runs"


def test_weight_priority_and_deadline_reach_the_engine(limited: Any, text: Text) -> None:
    house = limited("weight = 2.5")
    house.link.script = script(text, "hello")
    began = time.monotonic()
    list(house.inference.Generate(pb.GenerateRequest(prompt="x", priority=-3), timeout=PATIENCE))
    list(house.inference.Generate(pb.GenerateRequest(prompt="x")))
    first, second = house.link.submitted
    assert (first.weight, first.priority, second.priority) == (2.5, -3, 0)
    assert first.deadline is not None and 0 < first.deadline - began <= PATIENCE + 1
    assert second.deadline is None
    refusal = refused(
        lambda: house.inference.Generate(pb.GenerateRequest(prompt="x", priority=11), timeout=PATIENCE)
    )
    assert refusal.fields == ["priority"]


def test_a_cancelled_answer_costs_what_was_given_out(limited: Any) -> None:
    house = limited("tokens_per_minute = 40")
    house.link.script = lambda request: batches(request, [40], finish="")
    for _ in range(4):
        call = house.inference.Generate(
            pb.GenerateRequest(token_ids={"ids": [7]}, sampling=pb.Sampling(max_new_tokens=30))
        )
        next(call)
        call.cancel()
        house.loop.until(lambda: house.front._generating.num_live == 0)
