"""Uploads over as many streams as they take, against a scripted server."""

import grpc
import pytest

from lorikeet import Client, errors, resume
from lorikeet.upload import CHUNK_BYTES, CONFIG_NAME, WEIGHTS_NAME, UploadStream, default_id, read_folder


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(resume, "PAUSE", 0.001)


def offsets(messages):
    return [(message.chunk.file, message.chunk.offset) for message in messages[1:]]


def test_what_the_server_has_is_not_sent_again(server, client, adapter_folder):
    server.adapters.committed = {CONFIG_NAME: 8, WEIGHTS_NAME: CHUNK_BYTES}
    steps = []
    client.adapters.upload(adapter_folder, "acme", lambda done, total: steps.append(done))
    (messages,) = server.adapters.uploads
    assert offsets(messages) == [(WEIGHTS_NAME, CHUNK_BYTES), (WEIGHTS_NAME, 2 * CHUNK_BYTES)]
    assert steps == [8 + 2 * CHUNK_BYTES, 8 + 5 * CHUNK_BYTES // 2]


def test_the_id_is_the_same_for_the_same_files(server, client, adapter_folder):
    for _ in range(2):
        client.adapters.upload(adapter_folder, "acme")
    client.adapters.upload(adapter_folder, "other")
    (adapter_folder / CONFIG_NAME).write_text('{"r": 9}')
    client.adapters.upload(adapter_folder, "acme")
    client.adapters.upload(adapter_folder, "acme", upload_id="mine")
    ids = [messages[0].header.upload_id for messages in server.adapters.uploads]
    assert ids[0] == ids[1] == server.adapters.queries[0]
    assert len(set(ids)) == 4 and ids[4] == "mine"
    assert default_id("acme", read_folder(adapter_folder)) == ids[3]


def test_a_broken_stream_is_gone_on_with(server, client, adapter_folder):
    breaks = iter([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])

    def refusal(context):
        if (code := next(breaks, None)) is not None:
            server.adapters.committed = {CONFIG_NAME: 8, WEIGHTS_NAME: CHUNK_BYTES}
            server.refuse(context, code, "The connection broke.")

    server.adapters.refusal = refusal
    assert client.adapters.upload(adapter_folder, "acme").id == "acme@1"
    (messages,) = server.adapters.uploads
    assert offsets(messages)[0] == (WEIGHTS_NAME, CHUNK_BYTES)


def test_a_server_that_stays_away_is_given_up(server, client, adapter_folder, monkeypatch):
    monkeypatch.setattr(resume, "PATIENCE", 0.05)
    server.adapters.refusal = lambda context: server.refuse(context, grpc.StatusCode.UNAVAILABLE, "Away.")
    with pytest.raises(errors.Unavailable, match="Away"):
        client.adapters.upload(adapter_folder, "acme")


def test_a_server_that_was_never_there_is_told_at_once(dead_target, adapter_folder):
    with Client(dead_target) as client, pytest.raises(errors.Unavailable):
        client.adapters.upload(adapter_folder, "acme")


def test_bytes_that_the_server_lost_are_sent_anew_once(server, client, adapter_folder):
    server.adapters.committed = {CONFIG_NAME: 8, WEIGHTS_NAME: CHUNK_BYTES}
    losses = iter([True])

    def refusal(context):
        if next(losses, False):
            server.refuse(context, grpc.StatusCode.DATA_LOSS, "Other bytes.")

    server.adapters.refusal = refusal
    client.adapters.upload(adapter_folder, "acme")
    assert offsets(server.adapters.uploads[0])[0] == (CONFIG_NAME, 0)
    server.adapters.refusal = lambda context: server.refuse(context, grpc.StatusCode.DATA_LOSS, "Again.")
    with pytest.raises(errors.DataLoss, match="Again"):
        client.adapters.upload(adapter_folder, "acme")


def test_optional_files_come_along(adapter_folder):
    (adapter_folder / "README.md").write_text("# Card")
    (adapter_folder / "lorikeet_manifest.json").write_text("")
    stream = UploadStream("acme", read_folder(adapter_folder), None)
    assert [file.name for file in next(stream).header.files] == [CONFIG_NAME, WEIGHTS_NAME, "README.md"]
