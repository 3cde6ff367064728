"""Aliases: set, read, rolled back, and chosen from once for each request."""

from collections import Counter
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb

from lorikeet.v1 import adapters_pb2 as pb
from lorikeet.v1 import inference_pb2
from server.text import Text
from tests.server.front.house import PATIENCE, House, Open, refused, script
from tests.server.front.packs import send, upload

Code = grpc.StatusCode


@pytest.fixture
def stocked(house: House, text: Text) -> House:
    """Versions 1 and 2 of acme, and an engine that answers."""
    for seed in range(2):
        send(house, upload("acme", seed=seed))
    house.link.script = script(text, "hi")
    return house


def point(house: House, shares: dict[int, int], alias: str = "prod", **options: Any) -> pb.Alias:
    messages = [pb.AliasShare(version=version, weight=weight) for version, weight in shares.items()]
    request = pb.SetAliasRequest(name="acme", alias=alias, shares=messages, **options)
    answer: pb.Alias = house.adapters.SetAlias(request)
    return answer


def answering(house: House, adapter_id: str = "acme@prod", session: str | None = None) -> str:
    request = inference_pb2.GenerateRequest(prompt="x", adapter_id=adapter_id, session_id=session)
    version: str = next(house.inference.Generate(request, timeout=PATIENCE)).started.adapter_version
    return version


def test_a_request_follows_the_alias(stocked: House) -> None:
    assert refused(lambda: answering(stocked)).code is Code.NOT_FOUND
    assert point(stocked, {1: 1}).etag == "1"
    assert answering(stocked) == "acme@1"
    point(stocked, {2: 1})
    assert answering(stocked) == "acme@2"
    assert answering(stocked, "acme@1") == "acme@1"
    assert [list(v.aliases) for v in stocked.adapters.List(pb.ListAdaptersRequest()).versions] == [
        [],
        ["prod"],
    ]


def test_shares_are_kept_and_sessions_stay(stocked: House) -> None:
    point(stocked, {1: 90, 2: 10})
    seen = Counter(answering(stocked, session=f"s{i}") for i in range(200))
    assert set(seen) == {"acme@1", "acme@2"} and 5 <= seen["acme@2"] <= 40
    assert len({answering(stocked, session="s7") for _ in range(10)}) == 1
    assert {answering(stocked) for _ in range(200)} == {"acme@1", "acme@2"}, "each request is a session"


def test_a_long_session_id_is_refused(stocked: House) -> None:
    refusal = refused(lambda: answering(stocked, session="é" * 129))
    assert (refusal.code, refusal.fields) == (Code.INVALID_ARGUMENT, ["session_id"])


def test_compare_and_set(stocked: House) -> None:
    first = point(stocked, {1: 1}, etag="")
    second = point(stocked, {2: 1}, etag=first.etag)
    for stale in ("", first.etag):
        refusal = refused(lambda stale=stale: point(stocked, {1: 1}, etag=stale))
        assert (refusal.code, refusal.reason) == (Code.ABORTED, "ALIAS_CHANGED")
    for method, kind in (
        (stocked.adapters.RollbackAlias, pb.RollbackAliasRequest),
        (stocked.adapters.DeleteAlias, pb.DeleteAliasRequest),
    ):
        stale_request = kind(name="acme", alias="prod", etag=first.etag)
        assert refused(lambda m=method, r=stale_request: m(r)).code is Code.ABORTED
    assert stocked.adapters.GetAlias(pb.GetAliasRequest(name="acme", alias="prod")) == second


def test_the_way_back(stocked: House) -> None:
    send(stocked, upload("acme", seed=2))
    back = pb.RollbackAliasRequest(name="acme", alias="prod")
    for version in (1, 2, 3):
        point(stocked, {version: 1})
    assert [share.version for share in stocked.adapters.RollbackAlias(back).shares] == [2]
    again = stocked.adapters.RollbackAlias(back)
    assert [share.version for share in again.shares] == [1], "once more is further back"
    assert [[s.version for s in state.shares] for state in again.history] == [[1], [2], [3], [2], [1]]
    refusal = refused(lambda: stocked.adapters.RollbackAlias(back))
    assert (refusal.code, refusal.reason) == (Code.FAILED_PRECONDITION, "NOTHING_TO_RESTORE")
    point(stocked, {3: 1})
    stocked.adapters.Delete(pb.DeleteAdapterRequest(adapter_id="acme@1"))
    refusal = refused(lambda: stocked.adapters.RollbackAlias(back))
    assert refusal.code is Code.FAILED_PRECONDITION and "version 1" in refusal.message


def test_a_deleted_alias_can_come_back(stocked: House) -> None:
    before = point(stocked, {1: 1})
    stocked.adapters.DeleteAlias(pb.DeleteAliasRequest(name="acme", alias="prod"))
    assert refused(lambda: answering(stocked)).code is Code.NOT_FOUND
    assert not stocked.adapters.ListAliases(pb.ListAliasesRequest(name="acme")).aliases
    gone = refused(lambda: stocked.adapters.GetAlias(pb.GetAliasRequest(name="acme", alias="prod")))
    assert gone.code is Code.NOT_FOUND
    # The etag of a former life is not the next one's.
    assert point(stocked, {2: 1}, etag="").etag != before.etag
    back = stocked.adapters.RollbackAlias(pb.RollbackAliasRequest(name="acme", alias="prod"))
    assert [share.version for share in back.shares] == [1]


def test_a_version_that_an_alias_names_stays(stocked: House) -> None:
    point(stocked, {1: 1, 2: 1})
    for adapter_id in ("acme@1", "acme"):
        request = pb.DeleteAdapterRequest(adapter_id=adapter_id)
        refusal = refused(lambda request=request: stocked.adapters.Delete(request))
        assert (refusal.code, refusal.reason) == (Code.FAILED_PRECONDITION, "VERSION_IN_USE")
        assert "acme@prod" in refusal.message
    stocked.adapters.Delete(pb.DeleteAdapterRequest(adapter_id="acme@1", force=True))
    assert {answering(stocked) for _ in range(20)} == {"acme@2"}


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"name": "A", "alias": "prod"}, "name"),
        ({"name": "acme", "alias": "3"}, "alias"),
        ({"name": "acme", "alias": "Prod"}, "alias"),
        ({"name": "acme", "alias": "prod"}, "shares"),
        ({"name": "acme", "alias": "prod", "shares": [pb.AliasShare(version=1)]}, "shares"),
        ({"name": "acme", "alias": "prod", "shares": [pb.AliasShare(version=1, weight=1)] * 2}, "shares"),
        ({"name": "acme", "alias": "p", "shares": [pb.AliasShare(version=1, weight=10**6 + 1)]}, "shares"),
    ],
)
def test_malformed_aliases(stocked: House, request_: dict[str, Any], field: str) -> None:
    refusal = refused(lambda: stocked.adapters.SetAlias(pb.SetAliasRequest(**request_)))
    assert (refusal.code, refusal.fields) == (Code.INVALID_ARGUMENT, [field])


def test_an_alias_names_live_versions_only(stocked: House) -> None:
    assert refused(lambda: point(stocked, {1: 1, 3: 1})).code is Code.NOT_FOUND
    assert not stocked.adapters.ListAliases(pb.ListAliasesRequest(name="acme")).aliases


def test_what_means_several_versions_is_asked_back(stocked: House) -> None:
    point(stocked, {1: 1, 2: 1})
    for method, kind in (
        (stocked.adapters.Get, pb.GetAdapterRequest),
        (stocked.adapters.Pin, pb.PinAdapterRequest),
    ):
        refusal = refused(lambda m=method, k=kind: m(k(adapter_id="acme@prod")))
        assert (refusal.code, refusal.fields) == (Code.INVALID_ARGUMENT, ["adapter_id"])
        assert "acme@1, acme@2" in refusal.message
    refusal = refused(lambda: stocked.adapters.Delete(pb.DeleteAdapterRequest(adapter_id="acme@prod")))
    assert (refusal.code, refusal.fields) == (Code.INVALID_ARGUMENT, ["adapter_id"])


def test_aliases_survive_a_restart(stocked: House, open_house: Open) -> None:
    point(stocked, {1: 1})
    before = point(stocked, {1: 9, 2: 1}, alias="canary")
    store = stocked.front._config.adapter_store
    stocked.loop.run(stocked.front.stop())
    again = open_house(adapter_store=store)
    assert again.adapters.GetAlias(pb.GetAliasRequest(name="acme", alias="canary")) == before
    assert again.adapters.Get(pb.GetAdapterRequest(adapter_id="acme@prod")).version == 1


def test_quotas_are_told_before_bytes(open_house: Open) -> None:
    house = open_house(max_adapters=1)
    send(house, upload("acme"))
    assert send(house, upload("acme")).version == 1, "the same bytes again are no new version"
    refusal = refused(lambda: send(house, upload("acme", seed=1)[:1]))
    assert (refusal.code, refusal.reason) == (Code.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert refusal.detail(details_pb.QuotaFailure).violations[0].subject == "max_adapters"
    house.adapters.Delete(pb.DeleteAdapterRequest(adapter_id="acme"))
    assert send(house, upload("acme", seed=1)).version == 2

    house = open_house(max_adapter_store_bytes=3000)
    size = send(house, upload("acme")).size
    assert size < 3000 < 2 * size
    refusal = refused(lambda: send(house, upload("other", seed=1)[:1]))
    assert refusal.detail(details_pb.QuotaFailure).violations[0].subject == "max_adapter_store_bytes"
