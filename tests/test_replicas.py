"""Two whole servers over one bucket: what one changes, the other follows, and its running requests keep."""

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lorikeet import Aborted, Client, NotFound
from tests.adapters import conftest as adapters_conftest
from tests.toys import make_adapter
from tests.whole import make_whole_base, ready

LENGTH = 600
FLAGS = ("--threads", "1", "--cache-tokens", "8192", "--debug-checks", "--store-refresh-seconds", "0.1")
PATIENCE = 60.0
PROMPT = [random.Random(0).randrange(8, 300) for _ in range(64)]
bucket_service = adapters_conftest.bucket_service


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a context in which an answer takes much longer than news of a deletion."""
    return make_whole_base(tmp_path_factory.mktemp("base"), max_position_embeddings=LENGTH + len(PROMPT))


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    return [make_adapter(base, root / str(seed), seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def pair(
    base: Path, bucket_service: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Client, Client]]:
    import boto3

    boto3.client("s3", endpoint_url=bucket_service).create_bucket(Bucket="shared")
    with ExitStack() as stack:
        clients = [
            stack.enter_context(replica(base, bucket_service, tmp_path_factory.mktemp(name)))
            for name in ("one", "two")
        ]
        yield clients[0], clients[1]


@contextmanager
def replica(base: Path, bucket_service: str, folder: Path) -> Iterator[Client]:
    where = ("--adapter-store", "s3://shared/adapters", "--s3-endpoint", bucket_service)
    flags = (*where, "--adapter-cache", str(folder / "cache"))
    with ready(base, folder, (*FLAGS, *flags), timeout=120) as (_, client):
        yield client


def ask(client: Client, adapter: str, length: int = 12) -> tuple[str, list[int]]:
    """Which version answered, and its tokens."""
    result = client.generate(PROMPT, adapter=adapter, max_new_tokens=length, ignore_eos=True).result()
    return result.adapter_version, list(result.samples[0].token_ids)


def is_known(client: Client, adapter: str) -> bool:
    try:
        ask(client, adapter, 1)
    except NotFound:
        return False
    return True


def forget(client: Client, adapter: str) -> float:
    """Seconds until a server says NOT_FOUND."""
    began = time.monotonic()
    while is_known(client, adapter):
        assert time.monotonic() - began < PATIENCE
    return time.monotonic() - began


def test_two_servers_share_a_bucket(pair: tuple[Client, Client], made: list[Path]) -> None:
    first, second = pair
    first.adapters.upload(made[0], "support")
    assert ask(second, "support") == ask(first, "support"), "an unknown name is looked for"
    assert second.adapters.upload(made[1], "support").version == 2
    moved = second.adapters.set_alias("support", "prod", {2: 1}, etag="")
    assert ask(first, "support@prod")[:2] == ask(second, "support@2")[:2]
    assert first.adapters.get_alias("support", "prod") == moved
    states = first.adapters.watch("support@1")
    assert next(states).state in ("on_host", "on_device")
    second.adapters.delete("support@1")
    assert [state.state for state in states][-1] == "deleted", "a refresh tells the other server"


def test_a_deletion_at_one_server_lets_the_other_finish(
    pair: tuple[Client, Client], made: list[Path]
) -> None:
    first, second = pair
    first.adapters.upload(made[0], "drained")
    expected = ask(second, "drained@1", LENGTH)
    running = first.generate(PROMPT, adapter="drained@1", max_new_tokens=LENGTH, ignore_eos=True)
    next(iter(running))
    states = first.adapters.watch("drained@1")
    assert next(states).running == 1
    second.adapters.delete("drained@1", wait=PATIENCE)
    assert not is_known(second, "drained@1"), "at once where it was deleted"
    assert forget(first, "drained@1") < PATIENCE
    result = running.result()
    assert (result.adapter_version, list(result.samples[0].token_ids)) == expected
    seen = [state.state for state in states]
    assert seen[-2:] == ["draining", "deleted"], "it had not ended when the other server's news came"


def test_a_deletion_by_force_ends_who_runs_on_it_everywhere(
    pair: tuple[Client, Client], made: list[Path]
) -> None:
    first, second = pair
    first.adapters.upload(made[0], "forced")
    running = first.generate(PROMPT, adapter="forced@1", max_new_tokens=LENGTH, ignore_eos=True)
    next(iter(running))
    assert is_known(second, "forced@1")
    second.adapters.delete("forced@1", force=True)
    with pytest.raises(Aborted, match="deleted by force"):
        running.result()
    assert not is_known(first, "forced@1")
