"""An adapter's life in a whole server: aliases, prefixes, restarts and broken uploads."""

import random
import threading
from pathlib import Path
from typing import Any

import pytest

from lorikeet import Client
from tests.toys import drive, make_adapter, store_adapter
from tests.whole import make_whole_base, ready

PROMPT = [random.Random(0).randrange(8, 300) for _ in range(64)]
GREEDY: dict[str, Any] = {"max_new_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whole_base(tmp_path_factory.mktemp("life-base"))


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("life-adapters")
    return [make_adapter(base, root / str(seed), seed) for seed in (1, 2)]


def ask(client: Client, adapter: str) -> tuple[str, list[int], int]:
    """Which version answered, its tokens, and how much of the prompt was cached."""
    result = client.generate(PROMPT, adapter=adapter, **GREEDY).result()
    sample = result.samples[0]
    return result.adapter_version, list(sample.token_ids), sample.usage.cached_tokens


def test_an_alias_that_moves_takes_no_prefix_along(base: Path, made: list[Path], tmp_path: Path) -> None:
    with ready(base, tmp_path) as (_, client):
        client.adapters.upload(made[0], "support")
        client.adapters.set_alias("support", "prod", {1: 1})
        first = ask(client, "support@prod")
        assert first[::2] == ("support@1", 0)
        again = ask(client, "support@prod")
        assert again[:2] == first[:2] and again[2] >= 48, "the cache is at work"
        client.adapters.upload(made[1], "support")
        client.adapters.set_alias("support", "prod", {2: 1}, etag="1")
        moved = ask(client, "support@prod")
        assert moved[::2] == ("support@2", 0), "nothing of version 1 answers for version 2"
        assert moved[1] == ask(client, "support@2")[1] != first[1]
        client.adapters.rollback_alias("support", "prod")
        assert ask(client, "support@prod")[:2] == first[:2]


def test_an_upload_goes_on_in_the_next_server(base: Path, made: list[Path], tmp_path: Path) -> None:
    """The server is killed in the middle of an upload, which then only sends the rest to the next."""
    large = make_adapter(base, tmp_path / "large", 3, r=256)
    sent: list[int] = []
    middle = threading.Event()

    def stop_here(done: int, total: int) -> None:
        sent.append(done)
        if done > total // 2:
            middle.set()
            raise InterruptedError("the client is gone")

    with ready(base, tmp_path) as (server, client):
        with pytest.raises(InterruptedError):
            client.adapters.upload(large, "large", stop_here)
        assert middle.is_set()
        server.process.kill()
    rest: list[int] = []
    with ready(base, tmp_path) as (_, client):
        stored = client.adapters.upload(large, "large", lambda done, total: rest.append(done))
        assert rest[-1] == stored.size and rest[0] > 512 << 10, "it began behind what was there"
        assert ask(client, "large")[0] == "large@1"


@pytest.mark.parametrize(
    "flips", [25, pytest.param(1000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])]
)
def test_one_wrong_byte_is_refused_and_others_go_on(
    base: Path, made: list[Path], tmp_path: Path, flips: int
) -> None:
    root, numbers = tmp_path / "store", random.Random(flips)
    digest, other = (store_adapter(root, base, made[i], f"a{i}") for i in range(2))
    driven = drive(base, root)
    (right,) = driven.answers(driven.submit(PROMPT, adapter=other))
    files = [root / "blobs" / digest[:2] / digest / name for name in ("adapter_config.json",)]
    files.append(files[0].with_name("adapter_model.safetensors"))
    for number in range(flips):
        path = files[number % 10 > 1]
        content = path.read_bytes()
        at = numbers.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << numbers.randrange(8)]) + content[at + 1 :])
        bad = driven.submit(PROMPT, adapter=digest)
        good = driven.submit(PROMPT, adapter=other)
        assert driven.answers(good) == [right]
        assert driven.failures[bad].reason == "adapter" and not driven.tokens[bad], (
            f"byte {at} of {path.name}"
        )
        path.write_bytes(content)
    (whole,) = driven.answers(driven.submit(PROMPT, adapter=digest))
    assert len(whole) == 12
    # Now it is packed; that is made again where it was changed.
    (packed,) = files[0].parent.glob("prepared/*.packed")
    content = packed.read_bytes()
    packed.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    again = drive(base, root)
    assert again.answers(again.submit(PROMPT, adapter=digest)) == [whole]
    assert packed.read_bytes() == content
