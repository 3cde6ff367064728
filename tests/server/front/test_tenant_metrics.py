"""By tenant, within bounds, and without a word of what anybody asked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorikeet.v1 import inference_pb2 as pb
from server.engine.messages import Failure
from server.identity.keys import KeyFile
from server.identity.scopes import SCOPES
from server.tenant_metrics import OTHERS, TenantMetrics
from server.text import Text
from tests.server.front.house import PATIENCE, House, Open, script
from tests.server.front.test_metrics import scrape, value

SECRET = "platypus"


def read(metrics: TenantMetrics) -> dict[tuple[str, str], float]:
    return {
        (family.name, sample.labels["tenant"]): sample.value
        for family in metrics.collect()
        for sample in family.samples
    }


USES = st.lists(
    st.tuples(st.sampled_from([f"t{n}" for n in range(12)]), st.integers(0, 1000), st.booleans()), max_size=60
)


@given(USES)
def test_few_names_nothing_lost_and_nothing_falls(uses: list[tuple[str, int, bool]]) -> None:
    metrics = TenantMetrics(3)
    before: dict[tuple[str, str], float] = {}
    total = 0
    for tenant, tokens, is_scraped in uses:
        metrics.add(tenant, generation_tokens=tokens, requests=1)
        total += tokens
        if is_scraped:
            now = read(metrics)
            assert len({name for _, name in now}) <= 4
            assert sum(n for (family, _), n in now.items() if "generation" in family) == total
            gone = {key for key in before if key not in now}
            assert all(now[key] >= before[key] for key in before if key not in gone)
            before = now


def test_the_busiest_have_names() -> None:
    metrics = TenantMetrics(2)
    for tenant in ("a", "b", "c"):
        metrics.add(tenant, prompt_tokens=10)
    assert {name for _, name in read(metrics)} == {"a", "b", OTHERS}
    metrics.add("c", prompt_tokens=15)
    read(metrics)
    metrics.add("c", prompt_tokens=2)
    found = read(metrics)
    assert {name for _, name in found} >= {"c", OTHERS}


@pytest.fixture
def house(open_house: Open, tmp_path: Path) -> Iterator[House]:
    KeyFile(tmp_path / "keys.json").create("acme", SCOPES)
    yield open_house(keys=tmp_path / "keys.json", metrics_port=0, metrics_tenants=2)


def bearer(tmp_path: Path, tenant: str) -> Any:
    _, token = KeyFile(tmp_path / "keys.json").create(tenant, SCOPES)
    return (("authorization", f"Bearer {token.text}"),)


def test_tenants_in_a_scrape(house: House, tmp_path: Path, text: Text) -> None:
    house.link.script = script(text, "hello")
    for tenant in ("acme", "rival", "third", "acme"):
        request = pb.GenerateRequest(prompt="hello world")
        list(house.inference.Generate(request, timeout=PATIENCE, metadata=bearer(tmp_path, tenant)))
    with pytest.raises(grpc.RpcError):
        list(
            house.inference.Generate(
                pb.GenerateRequest(prompt="x"), metadata=(("authorization", "Bearer x"),)
            )
        )
    house.loop.until(lambda: house.front._generating.num_live == 0)
    found = scrape(house)
    names = {labels["tenant"] for labels, _ in found["lorikeet:tenant_requests_total"]}
    assert len(names) == 3 and OTHERS in names
    total = sum(number for _, number in found["lorikeet:tenant_prompt_tokens_total"])
    assert total == value(found, "prompt_tokens_total") == 4 * len(text.encode("hello world"))


def test_no_text_of_prompts_or_answers_in_log_or_metrics(
    house: House, tmp_path: Path, text: Text, caplog: pytest.LogCaptureFixture
) -> None:
    """However the call ends, at every level of the log."""
    caplog.set_level("DEBUG")
    ids = text.encode(SECRET)
    mine = bearer(tmp_path, "acme")
    failures = [Failure(1, "numeric", ""), RuntimeError("a fault"), Failure(1, "deadline", "")]
    scripts: list[Any] = [script(text, SECRET), *(lambda request, f=f: [f] for f in failures)]
    chat = {"messages": [{"role": "user", "content": SECRET}]}
    for given_ in (
        {"prompt": SECRET},
        {"chat": chat},
        {"prompt": SECRET, "adapter_id": "no"},
        {"prompt": SECRET * 999},
    ):
        for answer in scripts:
            house.link.script = answer
            try:
                request = pb.GenerateRequest(**given_, sampling=pb.Sampling(stop=[SECRET], max_new_tokens=9))
                list(house.inference.Generate(request, timeout=PATIENCE, metadata=mine))
            except grpc.RpcError as error:
                assert SECRET not in str(error.details())
    shown = caplog.text + str(scrape(house))
    assert "/lorikeet.v1.Inference/Generate" in shown
    assert SECRET not in shown
    assert str(ids)[1:-1] not in shown
    assert "lmk_" not in shown
