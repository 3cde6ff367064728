"""An adapter's folder on its way to the server, and the registry's other calls."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from lorikeet import errors
from lorikeet.types import AdapterVersion
from lorikeet.upload import CHUNK_BYTES, CONFIG_NAME, WEIGHTS_NAME, UploadStream, read_folder


def test_the_contract_takes_our_chunks():
    assert CHUNK_BYTES <= 1 << 20


def test_the_two_files_are_declared_and_sent_in_order(server, client, adapter_folder):
    client.adapters.upload(adapter_folder, "acme")
    (messages,) = server.adapters.uploads
    declared = {f.name: (f.size, f.sha256) for f in messages[0].header.files}
    assert messages[0].header.name == "acme"
    assert list(declared) == [CONFIG_NAME, WEIGHTS_NAME]
    sent = {name: b"" for name in declared}
    for message in messages[1:]:
        assert message.chunk.offset == len(sent[message.chunk.file])
        assert 0 < len(message.chunk.data) <= CHUNK_BYTES
        sent[message.chunk.file] += message.chunk.data
    assert {name: (len(data), hashlib.sha256(data).digest()) for name, data in sent.items()} == declared
    assert sent == {name: (adapter_folder / name).read_bytes() for name in declared}
    assert [message.chunk.file for message in messages[1:]] == [CONFIG_NAME] + [WEIGHTS_NAME] * 3


def test_progress_ends_at_the_total(client, adapter_folder):
    steps = []
    client.adapters.upload(str(adapter_folder), "acme", lambda done, total: steps.append((done, total)))
    total = sum((adapter_folder / name).stat().st_size for name in (CONFIG_NAME, WEIGHTS_NAME))
    assert steps == [(8, total), (8 + CHUNK_BYTES, total), (8 + 2 * CHUNK_BYTES, total), (total, total)]


def test_the_stored_version_comes_back(client, adapter_folder):
    stored = client.adapters.upload(adapter_folder, "acme")
    assert stored == AdapterVersion(
        name="acme",
        version=1,
        digest="ab" * 32,
        create_time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        size=3 << 20,
        rank=8,
        num_parameters=0,
        base_model="tiny",
        targets=("q_proj", "v_proj"),
        resident=False,
        kind="",
        pinned="",
        aliases=(),
    )
    assert stored.id == "acme@1"


def test_the_record_has_the_fields_of_the_contract(server):
    assert list(AdapterVersion.__slots__) == [field.name for field in server.version().DESCRIPTOR.fields]


@pytest.mark.parametrize("missing", [CONFIG_NAME, WEIGHTS_NAME])
def test_a_missing_file_is_named(client, adapter_folder, missing):
    (adapter_folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"is no adapter: {missing} missing"):
        client.adapters.upload(adapter_folder, "acme")


def test_a_pickle_is_refused_with_the_remedy(server, client, adapter_folder):
    (adapter_folder / WEIGHTS_NAME).rename(adapter_folder / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match="safe_serialization=True"):
        client.adapters.upload(adapter_folder, "acme")
    assert server.adapters.uploads == []


def test_a_missing_folder_is_named(client, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder .*nowhere"):
        client.adapters.upload(tmp_path / "nowhere", "acme")


def test_an_empty_file_is_declared_and_has_no_chunks(server, client, adapter_folder):
    (adapter_folder / CONFIG_NAME).write_bytes(b"")
    client.adapters.upload(adapter_folder, "acme")
    (messages,) = server.adapters.uploads
    assert messages[0].header.files[0].size == 0
    assert {message.chunk.file for message in messages[1:]} == {WEIGHTS_NAME}


def test_a_refusal_before_the_end_of_the_stream_is_told(server, client, adapter_folder):
    def refusal(context):
        server.refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "Too large.")

    server.adapters.refusal = refusal
    with pytest.raises(errors.ResourceExhausted, match="Too large"):
        client.adapters.upload(adapter_folder, "acme")


def test_a_failing_progress_is_raised_in_the_callers_thread(client, adapter_folder):
    def progress(done, total):
        raise RuntimeError("progress broke")

    with pytest.raises(RuntimeError, match="progress broke"):
        client.adapters.upload(adapter_folder, "acme", progress)


def test_a_file_that_vanishes_after_hashing_is_an_error_here(adapter_folder: Path):
    stream = UploadStream("acme", read_folder(adapter_folder), None)
    (adapter_folder / WEIGHTS_NAME).unlink()
    assert [message.WhichOneof("part") for message in stream] == ["header", "chunk"]
    assert isinstance(stream.error, FileNotFoundError)


def test_list_walks_all_pages_and_only_when_asked(server, client):
    server.adapters.versions = [server.version("acme", number) for number in range(1, 6)]
    versions = client.adapters.list(page_size=2)
    assert server.adapters.page_sizes == []
    assert [next(versions).id, next(versions).id] == ["acme@1", "acme@2"]
    assert server.adapters.page_sizes == [2]
    assert [version.id for version in versions] == ["acme@3", "acme@4", "acme@5"]
    assert server.adapters.page_sizes == [2, 2, 2]


def test_an_empty_server_lists_nothing(client):
    assert list(client.adapters.list()) == []


def test_get_and_delete(server, client):
    assert client.adapters.get("acme").name == "acme"
    assert [version.id for version in client.adapters.delete("acme@1")] == ["acme@1"]
    assert server.adapters.deleted == ["acme@1"]


@pytest.mark.parametrize("call", ["get", "delete"])
def test_registry_errors_are_typed(server, client, call):
    server.adapters.refusal = lambda context: server.refuse(
        context, grpc.StatusCode.NOT_FOUND, "No adapter x."
    )
    with pytest.raises(errors.NotFound, match="No adapter x"):
        getattr(client.adapters, call)("x")
    with pytest.raises(errors.NotFound):
        next(client.adapters.list())
