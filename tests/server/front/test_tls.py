"""TLS and certificates of clients, over real connections."""

from pathlib import Path

import grpc
import pytest

from lorikeet import Client, Unauthenticated, Unavailable
from server.config import ServerConfig
from server.identity.keys import KeyFile
from server.identity.scopes import INFER
from server.identity.tls import server_credentials
from server.text import Text
from tests.server.front.authority import Authority, Pair
from tests.server.front.house import House, Open, script

TENANTS = """
[tenants.acme]
certificates = ["spiffe://test/acme", "old.acme"]
[tenants.rival]
certificates = ["rival"]
certificate_scopes = ["infer"]
"""


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def served(tmp_path: Path, authority: Authority) -> dict[str, Path]:
    """The options of a server with TLS."""
    certificate, key = authority.issue("localhost", "127.0.0.1").write(tmp_path, "server")
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    return {"tls_cert": certificate, "tls_key": key}


def target(house: House) -> str:
    return f"localhost:{house.front.port}"


def client_with(house: House, authority: Authority, pair: Pair, key: str | None = None) -> Client:
    credentials = grpc.ssl_channel_credentials(authority.certificate, pair.key, pair.certificate)
    return Client(target(house), credentials=credentials, api_key=key, timeout=10)


def test_a_key_over_tls(open_house: Open, served: dict[str, Path], tmp_path: Path, text: Text) -> None:
    _, token = KeyFile(tmp_path / "keys.json").create("acme", [INFER])
    house = open_house(keys=tmp_path / "keys.json", **served)
    house.link.script = script(text, "hello")
    ca = tmp_path / "ca.pem"
    with Client(target(house), api_key=token.text, tls=ca, timeout=10) as client:
        assert client.generate("x").text() == "hello"
    assert house.link.submitted[-1].tenant == "acme"
    with Client(target(house), tls=ca, timeout=10) as client, pytest.raises(Unauthenticated):
        client.model()
    for trusting_nobody in ({}, {"tls": True}):
        with (
            Client(target(house), api_key=token.text, timeout=10, **trusting_nobody) as client,
            pytest.raises(Unavailable),
        ):
            client.model()


def test_a_replaced_certificate_is_taken_up(
    open_house: Open, served: dict[str, Path], tmp_path: Path
) -> None:
    house = open_house(**served)
    other = Authority()
    (tmp_path / "other.pem").write_bytes(other.certificate)
    with Client(target(house), tls=tmp_path / "ca.pem", timeout=10) as client:
        assert client.model().name
        pair = other.issue("localhost")
        # A certificate beside another's key is not used.
        served["tls_cert"].write_bytes(pair.certificate)
        with Client(target(house), tls=tmp_path / "ca.pem", timeout=10) as second:
            assert second.model().name
        pair.write(tmp_path, "server")
        with Client(target(house), tls=tmp_path / "other.pem", timeout=10) as third:
            assert third.model().name
        assert client.model().name, "connections that stand go on"


def test_a_clients_certificate_speaks_for_its_tenant(
    open_house: Open, served: dict[str, Path], tmp_path: Path, authority: Authority, text: Text
) -> None:
    (tmp_path / "tenants.toml").write_text(TENANTS)
    _, token = KeyFile(tmp_path / "keys.json").create("rival", [INFER])
    house = open_house(
        keys=tmp_path / "keys.json",
        tenants=tmp_path / "tenants.toml",
        tls_client_ca=tmp_path / "ca.pem",
        **served,
    )
    house.link.script = script(text, "hello")
    names = [("spiffe://test/acme", "acme"), ("old.acme", "acme"), ("rival", "rival")]
    for name, tenant in names:
        with client_with(house, authority, authority.issue(name)) as client:
            assert client.generate("x").text() == "hello"
        assert house.link.submitted[-1].tenant == tenant
    with client_with(house, authority, authority.issue("nobody"), token.text) as client:
        assert client.generate("x").text() == "hello", "a key decides where the certificate says nothing"
    for pair, key in ((authority.issue("nobody"), None), (authority.issue("old.acme"), token.text)):
        with client_with(house, authority, pair, key) as client, pytest.raises(Unauthenticated):
            client.model()
    with client_with(house, authority, Authority().issue("old.acme")) as client, pytest.raises(Unavailable):
        client.model()
    with Client(target(house), tls=tmp_path / "ca.pem", timeout=10) as client, pytest.raises(Unavailable):
        client.model()


def test_files_that_cannot_be_used(tmp_path: Path, authority: Authority) -> None:
    certificate, _ = authority.issue("a").write(tmp_path, "a")
    _, key = authority.issue("b").write(tmp_path, "b")
    with pytest.raises(ValueError, match="not the certificate's"):
        server_credentials(certificate, key, None)
    with pytest.raises(OSError):
        server_credentials(tmp_path / "nowhere.pem", key, None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"host": "0.0.0.0"}, "lorikeet keys create"),
        ({"host": "::"}, "lorikeet keys create"),
        ({"host": "example.com"}, "lorikeet keys create"),
        ({"tls_cert": Path("x")}, "belong together"),
        ({"tls_cert": Path("x"), "tls_key": Path("x"), "tls_client_ca": Path("x")}, "tenants file"),
        ({"jwt_keys": Path("x")}, "belong together"),
        ({"jwt_issuer": "x"}, "belong together"),
    ],
)
def test_a_door_that_would_stand_open_is_refused(options: dict[str, Path], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ServerConfig(base="x", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_key_and_says_so(host: str) -> None:
    assert not ServerConfig(base="x", host=host).has_identity
    assert ServerConfig(base="x", host="0.0.0.0", keys=Path("keys.json")).has_identity


def test_an_open_door_is_said(open_house: Open, caplog: pytest.LogCaptureFixture) -> None:
    open_house()
    assert "whoever reaches 127.0.0.1 may do everything" in caplog.text
