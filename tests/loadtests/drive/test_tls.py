"""The driver against a server process that speaks TLS alone and asks its clients for certificates."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.drive.grpc_target import GrpcTarget
from loadtests.drive.records import Record
from loadtests.drive.tls import Tls
from loadtests.scenario.options import RunOptions
from loadtests.workload import Request
from lorikeet import Client
from lorikeet.local import Serving, serving
from tests.server.front.authority import Authority
from tests.whole import FLAGS, make_whole_base

TENANTS = '[tenants.acme]\ncertificates = ["acme"]\n'
# At once over one connection.
ANSWERS, PROMPT = (1, 40, 100), 50


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def folder(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca, and certificates with their keys of the server, of acme, and of one from another authority."""
    folder = tmp_path_factory.mktemp("tls")
    (folder / "ca.pem").write_bytes(authority.certificate)
    (folder / "tenants.toml").write_text(TENANTS)
    authority.issue("127.0.0.1").write(folder, "server")
    authority.issue("acme").write(folder, "acme")
    Authority().issue("acme").write(folder, "forged")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Serving]:
    base = make_whole_base(folder / "base")
    files = {
        "tls-cert": "server.pem",
        "tls-key": "server.key",
        "tls-client-ca": "ca.pem",
        "tenants": "tenants.toml",
    }
    flags = [word for name, file in files.items() for word in (f"--{name}", str(folder / file))]
    with serving(base, folder, [*FLAGS, *flags]) as server:
        with Client(server.target, credentials=as_who(folder, "acme").credentials()) as client:
            server.wait_ready(client)
        yield server


def as_who(folder: Path, name: str = "") -> Tls:
    own = (folder / f"{name}.pem", folder / f"{name}.key") if name else (None, None)
    return Tls(folder / "ca.pem", *own)


async def ask(target: GrpcTarget, *answers: int) -> list[Record]:
    """All at once over one connection."""
    records = [Record(index, "acme", "", PROMPT, tokens, 0.0) for index, tokens in enumerate(answers)]
    connection, clock = target.connect(), asyncio.get_running_loop().time
    try:
        async with asyncio.TaskGroup() as group:
            for each in records:
                request = Request(each.index, 0.0, "acme", "", PROMPT, each.asked_tokens)
                group.create_task(connection.ask(request, [9] * PROMPT, each, clock))
        return records
    finally:
        await connection.close()


def test_answers_come_whole_to_whom_the_certificate_names(server: Serving, folder: Path) -> None:
    target = GrpcTarget(server.target, 120.0, tls=as_who(folder, "acme"))
    records = asyncio.run(ask(target, *ANSWERS))
    assert [(each.outcome, each.tokens) for each in records] == [("ok", tokens) for tokens in ANSWERS]
    for each in records:
        assert (
            each.sent < each.times[0]
            and list(each.times) == sorted(each.times)
            and each.times[-1] <= each.end
        )


def test_what_the_server_is_stays_readable_for_the_driver(server: Serving, folder: Path) -> None:
    async def main() -> str:
        connection = GrpcTarget(server.target, tls=as_who(folder, "acme")).connect()
        try:
            return (await connection.describe()).name
        finally:
            await connection.close()

    assert asyncio.run(main())


@pytest.mark.parametrize("name", ["", "forged"])
def test_who_has_no_certificate_or_a_forged_one_is_unavailable(
    server: Serving, folder: Path, name: str
) -> None:
    (record,) = asyncio.run(ask(GrpcTarget(server.target, 60.0, tls=as_who(folder, name)), 1))
    assert (record.outcome, record.tokens) == ("unavailable", 0) and record.reason


def test_the_flags_are_the_targets(folder: Path) -> None:
    files = {"ca": str(folder / "ca.pem"), "cert": str(folder / "acme.pem"), "key": str(folder / "acme.key")}
    target = RunOptions(target="x:1", **files).target_at("x:1", {})
    assert isinstance(target, GrpcTarget) and target.tls == as_who(folder, "acme")
    for wrong in ({"cert": files["cert"]}, {**files, "ca": ""}):
        with pytest.raises(ValueError, match="cert and key belong together"):
            RunOptions(target="x:1", **wrong)
    with pytest.raises(ValueError, match="ca is for a --target HOST:PORT"):
        RunOptions(target="https://x", ca=files["ca"])
    with pytest.raises(OSError):
        Tls(folder / "nowhere.pem").context()
