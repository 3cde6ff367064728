"""Every RPC, whoever calls: read from the descriptors, so a new one is refused until it is thought of."""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message_factory import GetMessageClass

import lorikeet.v1
from lorikeet.v1 import adapters_pb2
from lorikeet.v1 import inference_pb2 as pb
from server.identity.keys import KeyFile
from server.identity.scopes import PUBLIC, RPCS, SCOPES, scope_of
from server.text import Text
from tests.server.front.house import PATIENCE, House, Open, Refused, script
from tests.server.front.packs import chunks, header, pack, upload

Code = grpc.StatusCode
METHODS = [
    f"/{service}/{method.name}" for service in RPCS for method in Default().FindServiceByName(service).methods
]
OURS = [method for method in METHODS if method.startswith("/lorikeet.")]


class Clock:
    def __init__(self) -> None:
        self.now = 1.0

    def __call__(self) -> float:
        return self.now


def describe(method: str) -> MethodDescriptor:
    service, _, name = method.removeprefix("/").partition("/")
    return Default().FindServiceByName(service).methods_by_name[name]


def call(house: House, method: str, metadata: Any = (), **fields: Any) -> Any:
    """Any RPC with a request of its type; the first answer, or the refusal."""
    found = describe(method)
    request = GetMessageClass(found.input_type)()
    for name, value in fields.items():
        if name in found.input_type.fields_by_name:
            setattr(request, name, value)
    codecs = (request.__class__.SerializeToString, GetMessageClass(found.output_type).FromString)
    shape = ("stream" if found.client_streaming else "unary", "stream" if found.server_streaming else "unary")
    stub = getattr(house.channel, "_".join(shape))(method, *codecs)
    try:
        asked = iter([request]) if found.client_streaming else request
        answer = stub(asked, timeout=PATIENCE, metadata=metadata)
        if not found.server_streaming:
            return answer
        first = next(answer)
        answer.cancel()
        return first
    except grpc.RpcError as error:
        return Refused(error)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    file = KeyFile(tmp_path / "keys.json")
    file.create("somebody", SCOPES)
    return file


@pytest.fixture
def house(open_house: Open, keys: KeyFile, tmp_path: Path, text: Text) -> Iterator[House]:
    house = open_house(keys=tmp_path / "keys.json")
    house.link.script = script(text, "hello")
    yield house


def test_every_rpc_has_a_scope() -> None:
    for module in pkgutil.iter_modules(lorikeet.v1.__path__):
        if module.name.endswith("_pb2"):
            file = importlib.import_module(f"lorikeet.v1.{module.name}").DESCRIPTOR
            for service in file.services_by_name.values():
                for method in service.methods:
                    assert scope_of(f"/{service.full_name}/{method.name}") in SCOPES, method.full_name
    for service, methods in RPCS.items():
        assert set(methods) == {method.name for method in Default().FindServiceByName(service).methods}
    public = [method for method in METHODS if scope_of(method) == PUBLIC]
    assert not set(public) & set(OURS)


def test_an_rpc_without_an_entry_is_open_to_nobody(
    house: House, keys: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(RPCS["lorikeet.v1.Inference"], "GetModel")
    _, token = keys.create("acme", SCOPES)
    refusal = call(house, "/lorikeet.v1.Inference/GetModel", bearer(token.text))
    assert (refusal.code, refusal.reason) == (Code.PERMISSION_DENIED, "PERMISSION_DENIED")


@pytest.mark.parametrize("method", OURS)
def test_who_is_nobody(house: House, keys: KeyFile, method: str) -> None:
    expired = KeyFile(keys._path, Clock()).create("acme", SCOPES, 1.0)[1].text
    key, revoked = keys.create("acme", SCOPES)
    keys.revoke(key.id)
    _, right = keys.create("acme", SCOPES)
    wrong = right.text[:20] + ("0" if right.text[20] != "0" else "1") + right.text[21:]
    for metadata in (
        (),
        bearer("lmk_nonsense"),
        bearer(""),
        bearer("e30.e30."),
        bearer(wrong),
        bearer(expired),
        bearer(revoked.text),
        bearer(right.text) * 2,
        (("authorization", right.text),),
        (("x-api-key", right.text),),
    ):
        refusal = call(house, method, metadata)
        assert (refusal.code, refusal.reason) == (Code.UNAUTHENTICATED, "UNAUTHENTICATED"), metadata
        assert right.secret not in refusal.message
    assert house.link.submitted == []


@pytest.mark.parametrize("method", OURS)
def test_a_key_with_every_scope_but_the_one(
    house: House, keys: KeyFile, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "server.books")
    needed = scope_of(method)
    key, token = keys.create("acme", [scope for scope in SCOPES if scope != needed])
    refusal = call(house, method, bearer(token.text))
    assert (refusal.code, refusal.reason) == (Code.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert str(needed) in refusal.message
    house.loop.until(lambda: "PERMISSION_DENIED" in caplog.text)
    assert f"tenant=acme key={key.id}" in caplog.text, "the log names who was refused"
    _, token = keys.create("acme", [str(needed)])
    answer = call(house, method, bearer(token.text))
    assert not isinstance(answer, Refused) or answer.code in (Code.INVALID_ARGUMENT, Code.NOT_FOUND)


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(OURS)))
def test_health_needs_no_key_and_reflection_shows_only_when_allowed(
    house: House, open_house: Open, keys: KeyFile, method: str
) -> None:
    if describe(method).client_streaming:
        # The fixture's fronts allow it.
        assert not isinstance(call(house, method, host="localhost"), Refused)
        closed = open_house(keys=keys._path, reflection=False)
        assert call(closed, method).code is Code.UNIMPLEMENTED
    else:
        assert not isinstance(call(house, method), Refused)


@pytest.mark.parametrize("method", OURS)
def test_another_tenants_adapter_is_as_if_it_were_not(house: House, keys: KeyFile, method: str) -> None:
    """Word for word, detail for detail."""
    _, owner = keys.create("acme", SCOPES)
    _, rival = keys.create("rival", SCOPES)
    stored = house.adapters.Upload(iter(upload("private")), timeout=PATIENCE, metadata=bearer(owner.text))
    prod = adapters_pb2.SetAliasRequest(name="private", alias="prod", shares=[{"version": 1, "weight": 1}])
    house.adapters.SetAlias(prod, metadata=bearer(owner.text))

    def hide(text: str) -> str:
        return text.replace("private", "missing").replace(stored.digest, "0" * 64)

    own = ("private", "private@1", "private@prod")
    names = (*own, stored.digest, *(f"acme/{name}" for name in own))
    for field in ("adapter_id", "name"):
        if field not in describe(method).input_type.fields_by_name:
            continue
        for name in names:
            absent = hide(name)
            real, none = (
                call(house, method, bearer(rival.text), **{field: each, "prompt": "x"})
                for each in (name, absent)
            )
            assert isinstance(real, Refused), f"{method} gave {name} to a stranger"
            assert real.code is none.code and real.code in (Code.NOT_FOUND, Code.INVALID_ARGUMENT)
            assert hide(str(real._status)) == str(none._status)
    assert house.adapters.Get(
        adapters_pb2.GetAdapterRequest(adapter_id="private"), metadata=bearer(owner.text)
    )


@pytest.mark.parametrize("is_whole", [False, True], ids=["unfinished", "stored"])
def test_another_tenants_upload_is_as_if_it_were_not(house: House, keys: KeyFile, is_whole: bool) -> None:
    """By its id neither looked at, nor watched, nor gone on with; the same id is free for everybody."""
    owner, rival = (bearer(keys.create(tenant, SCOPES)[1].text) for tenant in ("acme", "rival"))
    files, theirs = pack(), pack(seed=1)
    sent = [header("private", files, upload_id="known"), *chunks(files)]
    ended = call_upload(house, sent if is_whole else sent[:-1], owner)
    assert isinstance(ended, Refused) is not is_whole

    def hide(text: str) -> str:
        return text.replace("known", "guess")

    asking = [method for method in OURS if "upload_id" in describe(method).input_type.fields_by_name]
    assert len(asking) == 2
    for method in asking:
        real, none = (call(house, method, rival, upload_id=each) for each in ("known", "guess"))
        assert isinstance(real, Refused) and real.code is none.code is Code.NOT_FOUND
        assert hide(str(real._status)) == hide(str(none._status))
    sent = [header("private", theirs, upload_id="known"), *chunks(theirs)]
    stored = call_upload(house, sent, rival)
    listed = house.adapters.List(adapters_pb2.ListAdaptersRequest(), metadata=owner).versions
    assert stored.version == 1 and stored.digest not in [version.digest for version in listed]
    assert len(listed) == is_whole
    if not is_whole:
        query = adapters_pb2.QueryUploadRequest(upload_id="known")
        assert house.adapters.QueryUpload(query, metadata=owner).name == "private"


def call_upload(house: House, messages: Any, metadata: Any) -> Any:
    try:
        return house.adapters.Upload(iter(messages), timeout=PATIENCE, metadata=metadata)
    except grpc.RpcError as error:
        return Refused(error)


def test_tenants_have_namespaces_of_their_own(house: House, keys: KeyFile) -> None:
    for tenant, seed in (("acme", 0), ("rival", 1)):
        _, token = keys.create(tenant, SCOPES)
        mine = bearer(token.text)
        stored = house.adapters.Upload(iter(upload("same", seed)), timeout=PATIENCE, metadata=mine)
        listed = house.adapters.List(adapters_pb2.ListAdaptersRequest(), metadata=mine).versions
        assert [version.digest for version in listed] == [stored.digest]
        request = pb.GenerateRequest(prompt="x", adapter_id="same")
        list(house.inference.Generate(request, timeout=PATIENCE, metadata=mine))
        assert house.link.submitted[-1].tenant == tenant
        assert house.link.submitted[-1].adapter == stored.digest
