"""Uploads that break off, and whoever goes on with them."""

import queue
from typing import Any

import grpc

from lorikeet.v1 import adapters_pb2 as pb
from tests.server.front.house import PATIENCE, House, Open, refused
from tests.server.front.packs import CONFIG_NAME, WEIGHTS_NAME, chunk, chunks, header, pack, send, staged

Code = grpc.StatusCode
FILES = pack()


class Sender:
    """An upload that is sent message by message."""

    def __init__(self, house: House, upload_id: str = "u1", files: dict[str, bytes] = FILES) -> None:
        self._messages: queue.Queue[Any] = queue.Queue()
        self._messages.put(header("acme", files, upload_id=upload_id))
        self.call = house.adapters.Upload.future(iter(self._messages.get, None), timeout=PATIENCE)
        # The server has taken the header once it told the id.
        self.upload_id = dict(self.call.initial_metadata())["x-lorikeet-upload-id"]

    def put(self, *messages: pb.UploadRequest) -> None:
        for message in messages:
            self._messages.put(message)

    def hang_up(self, house: House) -> None:
        self.call.cancel()
        self._messages.put(None)
        house.loop.run(house.front._uploading.wait_idle())


def committed(house: House, upload_id: str = "u1") -> dict[str, int]:
    status = house.adapters.QueryUpload(pb.QueryUploadRequest(upload_id=upload_id))
    return {file.file: file.committed for file in status.files}


def wait_for(house: House, upload_id: str, **sizes: int) -> None:
    uploads = house.front._directory.store.uploads
    house.loop.until(lambda: sum(uploads.get("default", upload_id).sizes.values()) >= sizes["total"])


def rest(files: dict[str, bytes], have: dict[str, int]) -> list[pb.UploadRequest]:
    return [
        chunk(name, at, data[at : at + 1000])
        for name, data in files.items()
        for at in range(have.get(name, 0), len(data), 1000)
    ]


def break_off(house: House, upload_id: str = "u1") -> str:
    """Sends the configuration and 1,000 bytes of the weights, then hangs up."""
    sender = Sender(house, upload_id)
    sender.put(chunk(CONFIG_NAME, 0, FILES[CONFIG_NAME]), chunk(WEIGHTS_NAME, 0, FILES[WEIGHTS_NAME][:1000]))
    wait_for(house, sender.upload_id, total=len(FILES[CONFIG_NAME]) + 1000)
    sender.hang_up(house)
    return sender.upload_id


def test_a_broken_stream_is_gone_on_with(house: House) -> None:
    break_off(house)
    have = committed(house)
    assert have == {CONFIG_NAME: len(FILES[CONFIG_NAME]), WEIGHTS_NAME: 1000}
    version = send(house, [header("acme", FILES, upload_id="u1"), *rest(FILES, have)])
    assert (version.name, version.version) == ("acme", 1)
    gone = refused(lambda: committed(house))
    assert (gone.code, gone.reason) == (Code.NOT_FOUND, "UPLOAD_NOT_FOUND")
    assert staged(house) == []


def test_an_id_of_the_servers_own(house: House) -> None:
    upload_id = break_off(house, "")
    version = send(
        house, [header("acme", FILES, upload_id=upload_id), *rest(FILES, committed(house, upload_id))]
    )
    assert version.version == 1


def test_a_restarted_server_goes_on(house: House, open_house: Open) -> None:
    break_off(house)
    before = committed(house)
    store = house.front._config.adapter_store
    house.loop.run(house.front.stop())
    again = open_house(adapter_store=store)
    assert committed(again) == before
    version = send(again, [header("acme", FILES, upload_id="u1"), *rest(FILES, before)])
    assert version.size == sum(map(len, FILES.values()))


def test_bytes_that_changed_while_the_server_was_away(house: House, open_house: Open) -> None:
    break_off(house)
    store = house.front._config.adapter_store
    house.loop.run(house.front.stop())
    (weights,) = store.glob(f"staging/*/files/{WEIGHTS_NAME}")
    weights.write_bytes(bytes(1000))
    again = open_house(adapter_store=store)
    messages = [header("acme", FILES, upload_id="u1"), *rest(FILES, committed(again))]
    assert refused(lambda: send(again, messages)).code is Code.DATA_LOSS
    assert refused(lambda: committed(again)).code is Code.NOT_FOUND, "it begins anew"
    assert send(again, [header("acme", FILES, upload_id="u1"), *chunks(FILES)]).version == 1


def test_a_wrong_offset_loses_nothing(house: House) -> None:
    break_off(house)
    before = committed(house)
    refusal = refused(lambda: send(house, [header("acme", FILES, upload_id="u1"), *chunks(FILES)]))
    assert (refusal.code, refusal.fields) == (Code.INVALID_ARGUMENT, ["files"])
    assert "continues at byte" in refusal.message
    assert committed(house) == before


def test_a_stream_that_ends_early_loses_nothing(house: House) -> None:
    messages = [header("acme", FILES, upload_id="u1"), *list(chunks(FILES))[:-1]]
    refusal = refused(lambda: send(house, messages))
    assert (refusal.code, refusal.fields) == (Code.INVALID_ARGUMENT, ["files"])
    version = send(house, [header("acme", FILES, upload_id="u1"), *rest(FILES, committed(house))])
    assert version.version == 1


def test_other_files_under_an_id_are_refused(house: House) -> None:
    break_off(house)
    before = committed(house)
    other = pack(seed=1)
    refusal = refused(lambda: send(house, [header("acme", other, upload_id="u1"), *chunks(other)]))
    assert (refusal.code, refusal.fields) == (Code.INVALID_ARGUMENT, ["files"])
    assert committed(house) == before


def test_the_newer_stream_takes_over(house: House) -> None:
    first = Sender(house)
    first.put(chunk(CONFIG_NAME, 0, FILES[CONFIG_NAME]))
    wait_for(house, "u1", total=len(FILES[CONFIG_NAME]))
    second = Sender(house)
    first.put(chunk(WEIGHTS_NAME, 0, b"x" * 1000), None)
    refusal = refused(first.call.result)
    assert (refusal.code, refusal.reason) == (Code.ABORTED, "UPLOAD_TAKEN")
    second.put(*rest(FILES, committed(house)), None)
    assert second.call.result().version == 1


def test_a_sender_who_falls_silent_can_come_back(house: House) -> None:
    house.front._adapters._patience = 0.1
    sender = Sender(house)
    refusal = refused(sender.call.result)
    assert (refusal.code, refusal.reason) == (Code.DEADLINE_EXCEEDED, "SLOW_SENDER")
    sender.put(None)
    assert committed(house) == {CONFIG_NAME: 0, WEIGHTS_NAME: 0}


def test_old_and_many_uploads_are_removed(open_house: Open) -> None:
    house = open_house(upload_hours=0.0)
    break_off(house)
    house.front._directory.store.uploads.expire()
    assert refused(lambda: committed(house)).code is Code.NOT_FOUND
    assert staged(house) == []

    house = open_house(upload_bytes=2 * sum(map(len, FILES.values())))
    for upload_id in ("a", "b", "c"):
        break_off(house, upload_id)
    assert refused(lambda: committed(house, "a")).code is Code.NOT_FOUND
    assert committed(house, "b") and committed(house, "c")


def test_an_upload_while_the_model_loads_waits_for_it(open_house: Open) -> None:
    house = open_house(ready=False)
    refusal = refused(lambda: send(house, [header("acme", FILES, upload_id="u1"), *chunks(FILES)]))
    assert (refusal.code, refusal.reason) == (Code.UNAVAILABLE, "NOT_READY")
    assert committed(house) == {name: len(data) for name, data in FILES.items()}
    house.replace_engine()
    assert send(house, [header("acme", FILES, upload_id="u1")]).version == 1


def test_malformed_ids(house: House) -> None:
    refusal = refused(lambda: send(house, [header("acme", FILES, upload_id="a/b")]))
    assert (refusal.code, refusal.fields) == (Code.INVALID_ARGUMENT, ["header.upload_id"])
    assert refused(lambda: committed(house, "a/b")).fields == ["upload_id"]
