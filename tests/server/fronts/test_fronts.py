"""Two processes on one port before one engine: whichever a client reaches, it is one server."""

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lorikeet import Client, LorikeetError, client
from lorikeet.errors import NotFound, ResourceExhausted, Unavailable
from lorikeet.local import Serving, _free_port, serving
from server.audit import verify
from server.identity.keys import KeyFile
from server.identity.scopes import SCOPES
from tests.toys import drive, make_adapter
from tests.whole import make_whole_base

PATIENCE = 60.0
PROMPT = [5, 6, 7, 8, 9]
SEEDED: dict[str, Any] = {"temperature": 0.9, "seed": 3, "ignore_eos": True}
TENANT_NAMES = ("acme", "slim", "counted", "seen", "first", "other")
TENANTS = """
[tenants.slim]
max_in_flight = 1

[tenants.counted]
tokens_per_minute = 100

[tenants.first]
tokens_per_minute = 250

[tenants.other]
tokens_per_minute = 250
"""


@dataclass
class Pair:
    """A server with two fronts."""

    serving: Serving
    metrics_port: int
    keys: dict[str, str]
    audit: Path

    @property
    def first(self) -> int:
        return self.serving.process.pid

    def children(self, module: str) -> list[int]:
        found = psutil.Process(self.first).children()
        return [child.pid for child in found if module in " ".join(child.cmdline())]

    @property
    def other(self) -> int:
        (pid,) = self.children("server.fronts.process")
        return pid

    @property
    def engine(self) -> int:
        (pid,) = self.children("server.engine.process")
        return pid

    def client(self, tenant: str = "acme") -> Client:
        return Client(self.serving.target, timeout=PATIENCE, api_key=self.keys[tenant])

    def reach(self, pid: int, tenant: str = "acme") -> Client:
        """A client whose connection that front has, found by connecting until it is so."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = self.client(tenant)
            before = connections(pid)
            found.wait_ready(PATIENCE)
            if connections(pid) > before:
                return found
            found.close()
        raise AssertionError(f"front {pid} was never reached")

    def scraped(self, name: str, **labels: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as response:
            families = list(text_string_to_metric_families(response.read().decode()))
        samples = [sample for family in families for sample in family.samples]
        assert len({(s.name, tuple(sorted(s.labels.items()))) for s in samples}) == len(samples)
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def connections(pid: int) -> int:
    found = psutil.Process(pid).net_connections("tcp")
    return sum(connection.status == psutil.CONN_ESTABLISHED for connection in found)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whole_base(tmp_path_factory.mktemp("fronts-base"))


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("fronts-adapters")
    return [make_adapter(base, root / str(seed), seed, r=4) for seed in (1, 2)]


@pytest.fixture(scope="module")
def open_pair(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[ExitStack], Pair]]:
    def open_(stack: ExitStack) -> Pair:
        folder = tmp_path_factory.mktemp("fronts")
        (folder / "tenants.toml").write_text(TENANTS)
        file = KeyFile(folder / "keys.json")
        keys = {tenant: file.create(tenant, SCOPES)[1].text for tenant in TENANT_NAMES}
        port = _free_port()
        flags = ["--fronts", "2", "--threads", "1", "--cache-tokens", "4096", "--debug-checks"]
        flags += ["--keys", str(folder / "keys.json"), "--tenants", str(folder / "tenants.toml")]
        flags += ["--metrics-port", str(port)]
        server = stack.enter_context(serving(base, folder, flags))
        return Pair(server, port, keys, folder / "store" / "audit")

    # Channels of one process to one server share a connection otherwise.
    options = [*client._CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_CHANNEL_OPTIONS", options)
        yield open_


@pytest.fixture(scope="module")
def pair(open_pair: Callable[[ExitStack], Pair]) -> Iterator[Pair]:
    with ExitStack() as stack:
        pair = open_pair(stack)
        with pair.client() as client:
            pair.serving.wait_ready(client)
        until(lambda: len(pair.children("server.fronts.process")) == 1)
        yield pair


@pytest.fixture(scope="module")
def both(pair: Pair) -> Iterator[tuple[Client, Client]]:
    """A client of each front."""
    with pair.reach(pair.first) as one, pair.reach(pair.other) as two:
        yield one, two


def test_both_say_the_same_and_what_is_stored_by_one_is_seen_by_the_other_at_once(
    pair: Pair, both: tuple[Client, Client], folders: list[Path]
) -> None:
    one, two = both
    assert one.model() == two.model()
    first = two.adapters.upload(folders[0], "support")
    assert one.adapters.get("support@1").digest == first.digest
    second = one.adapters.upload(folders[1], "support")
    assert [v.id for v in two.adapters.list()] == ["support@1", "support@2"]
    for adapter in ("", "support@1", "support@2"):
        options = {"adapter": adapter, "max_new_tokens": 12, **SEEDED}
        answers = {each.generate("the cat sat", **options).text() for each in both}
        assert len(answers) == 1
    one.adapters.set_alias("support", "prod", {1: 1})
    for version, digest in ((1, first.digest), (2, second.digest)):
        two.adapters.set_alias("support", "prod", {version: 1})
        found = {
            each.generate("x", adapter="support@prod", max_new_tokens=2).result().adapter_digest
            for each in both
        }
        assert found == {digest}
    two.adapters.delete("support@1")
    for each in both:
        with pytest.raises(NotFound) as caught:
            each.generate("x", adapter="support@1").text()
        assert caught.value.resource == "support@1"
        assert each.tokenize("the cat", adapter="support@2") == one.tokenize("the cat")
    peers = {json.loads(line)["peer"] for line in next(pair.audit.iterdir()).read_text().splitlines()}
    assert len(peers) == 2 and all(peer.startswith("ipv4:127.0.0.1:") for peer in peers)
    # Raises where the chain is broken.
    verify(pair.audit)


def test_a_tenants_places_and_tokens_are_counted_once(pair: Pair) -> None:
    for tenant in ("slim", "counted"):
        with pair.reach(pair.first, tenant) as one, pair.reach(pair.other, tenant) as two:
            if tenant == "slim":
                for here, there in ((one, two), (two, one)):
                    running = here.generate(PROMPT, max_new_tokens=240, ignore_eos=True)
                    next(running)
                    with pytest.raises(ResourceExhausted, match="1 sequences at once"):
                        there.generate(PROMPT, max_new_tokens=1).text()
                    running.cancel()
                    until(lambda: not refused(there, max_new_tokens=1))  # noqa: B023
            else:
                # 5 of the prompt and 15 of the answer, of 100 in a minute.
                asked = [refused(each, max_new_tokens=15, ignore_eos=True) for each in (one, two) * 5]
                assert asked == [False] * 5 + [True] * 5


def refused(client: Client, **options: Any) -> bool:
    try:
        client.generate(PROMPT, **options).text()
    except ResourceExhausted:
        return True
    return False


def test_one_scrape_is_of_both(pair: Pair) -> None:
    total = pair.scraped("lorikeet:requests_total", outcome="ok")
    of_tenants = pair.scraped("lorikeet:tenant_requests_total")
    with pair.reach(pair.first, "seen") as one, pair.reach(pair.other, "seen") as two:
        for each in (one, two):
            each.generate(PROMPT, max_new_tokens=4, ignore_eos=True).text()
    # Other fronts tell once a second it; a tenant's own line begins when it is first shown.
    until(lambda: pair.scraped("lorikeet:tenant_requests_total") >= of_tenants + 2)
    until(lambda: pair.scraped("lorikeet:requests_total", outcome="ok") >= total + 2)
    assert pair.scraped("lorikeet:time_to_first_token_seconds_count") >= total + 2
    until(lambda: pair.scraped("lorikeet:live_sequences") == 0)


def test_an_adapter_deleted_by_force_ends_what_runs_on_it_at_either(
    both: tuple[Client, Client], folders: list[Path]
) -> None:
    one, two = both
    one.adapters.upload(folders[0], "doomed")
    running = [each.generate(PROMPT, adapter="doomed", max_new_tokens=240, ignore_eos=True) for each in both]
    for each in running:
        next(each)
    two.adapters.delete("doomed", force=True)
    for each in running:
        with pytest.raises(LorikeetError, match="deleted by force"):
            each.result()


@pytest.mark.parametrize("front", ["first", "other"])
def test_what_was_given_out_before_a_delete_by_force_is_charged(
    pair: Pair, folders: list[Path], front: str
) -> None:
    """The tenant is named after the front, so that each has an allowance that nothing else was taken of."""
    per_minute, longest = 250, 240
    counted = pair.scraped("lorikeet:tenant_generation_tokens_total")
    with pair.reach(getattr(pair, front), tenant=front) as client:
        client.adapters.upload(folders[0], "doomed")
        began = time.monotonic()
        running = client.generate(PROMPT, adapter="doomed", max_new_tokens=longest, ignore_eos=True)
        received = 0
        while received < 60:
            received += len(next(running.chunks()).token_ids)
        client.adapters.delete("doomed", force=True)
        with pytest.raises(LorikeetError, match="deleted by force"):
            running.result()
        with pytest.raises(ResourceExhausted) as caught:
            client.generate(PROMPT, max_new_tokens=longest).text()
    came_back = (time.monotonic() - began) * per_minute / 60
    assert caught.value.retry_after is not None
    charged = per_minute - longest + caught.value.retry_after * per_minute / 60
    assert len(PROMPT) + received - came_back <= charged <= len(PROMPT) + longest
    until(lambda: pair.scraped("lorikeet:tenant_generation_tokens_total") >= counted + received)


def test_a_killed_engine_is_survived_by_answers_of_both(
    pair: Pair, both: tuple[Client, Client], base: Path
) -> None:
    driven = drive(base, pair.audit.parent)
    (expected,) = driven.answers(driven.submit(PROMPT, max_new_tokens=200, temperature=0.9, seed=3))
    running = [each.generate(PROMPT, max_new_tokens=200, **SEEDED) for each in both]
    for each in running:
        next(each)
    os.kill(pair.engine, signal.SIGKILL)
    for each in running:
        assert list(each.result().samples[0].token_ids) == expected


def test_a_killed_front_takes_its_own_answers_alone_and_another_one_comes(pair: Pair) -> None:
    killed, counted = pair.other, pair.scraped("lorikeet:requests_total", outcome="ok")
    with pair.reach(pair.first) as one, pair.reach(killed, "slim") as two:
        staying, broken = (each.generate(PROMPT, max_new_tokens=240, ignore_eos=True) for each in (one, two))
        next(staying), next(broken)
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(Unavailable):
            broken.result()
        assert len(staying.result().samples[0].token_ids) == 240
        # Its tenant may have one sequence, and the one that was cut is given up.
        assert not refused(two, max_new_tokens=4)
    until(lambda: pair.scraped("lorikeet:num_requests_running") == 0)
    until(lambda: len(pair.children("server.fronts.process")) == 1 and pair.other != killed)
    with pair.reach(pair.other) as client:
        assert client.generate(PROMPT, max_new_tokens=4).text() is not None
    assert pair.scraped("lorikeet:requests_total", outcome="ok") > counted


def test_another_server_does_not_slip_onto_the_port(pair: Pair, base: Path, tmp_path: Path) -> None:
    flags = ["--port", pair.serving.target.rpartition(":")[2], "--fronts", "2"]
    with serving(base, tmp_path, flags) as second:
        assert second.process.wait(PATIENCE) != 0
        assert "Address already in use" in second.log.read_text()


def test_told_to_end_both_let_answers_finish_and_nothing_is_left(pair: Pair) -> None:
    """The last test of this server."""
    processes = [psutil.Process(pid) for pid in (pair.first, pair.other, pair.engine)]
    with pair.reach(pair.first) as one, pair.reach(pair.other) as two, ThreadPoolExecutor(2) as pool:
        running = [each.generate(PROMPT, max_new_tokens=240, ignore_eos=True) for each in (one, two)]
        for each in running:
            next(each)
        pair.serving.process.terminate()
        for result in pool.map(lambda each: each.result(), running):
            assert len(result.samples[0].token_ids) == 240
    assert pair.serving.process.wait(PATIENCE) == 0
    assert not any(process.is_running() for process in processes)
