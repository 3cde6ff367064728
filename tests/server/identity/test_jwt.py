"""Tokens of an identity provider, good and forged."""

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from server.caller import Caller
from server.errors import Unauthenticated
from server.identity.identity import Identity
from server.identity.jwt import ALGORITHMS, Tokens, read_jwks
from server.identity.live_file import LiveFile
from server.identity.scopes import INFER, READ, TENANT_SCOPES
from server.identity.tenants import open_tenants

KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
STRANGER = ed25519.Ed25519PrivateKey.generate()


def jwk(name: str, key: Any = None) -> dict[str, Any]:
    algorithm = jwt.get_algorithm_by_name(name)
    made = algorithm.to_jwk((key or KEYS[name]).public_key(), as_dict=True)
    return {**made, "kid": name, "alg": name}


def write(path: Path, *keys: dict[str, Any]) -> None:
    path.write_text(json.dumps({"keys": keys}))


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    write(path, *(jwk(name) for name in ALGORITHMS))
    return path


@pytest.fixture
def identity(jwks: Path) -> Identity:
    tokens = Tokens(LiveFile((jwks,), read_jwks), "https://issuer", "lorikeet", "tenant")
    return Identity(None, tokens, open_tenants(None))


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    made = {"iss": "https://issuer", "aud": "lorikeet", "sub": "bot", "tenant": "acme", "iat": now}
    return {key: value for key, value in {**made, "exp": now + 600, **changes}.items() if value is not None}


def token(name: str = "EdDSA", key: Any = None, kid: str | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key or KEYS[name], algorithm=name, headers={"kid": kid or name})


def called(identity: Identity, text: str) -> Caller:
    return identity.caller([("authorization", f"Bearer {text}")], {})


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_good_token(identity: Identity, name: str) -> None:
    assert called(identity, token(name)) == Caller("acme", "jwt:bot", frozenset(TENANT_SCOPES))


def test_scopes_are_ours_or_nothing(identity: Identity) -> None:
    assert called(identity, token(scope="infer adapter.read profile")).scopes == {INFER, READ}
    assert called(identity, token(scope="profile")).scopes == frozenset()


def test_a_subject_cannot_write_into_the_log(identity: Identity) -> None:
    key_id = called(identity, token(sub="a\nERROR " + "x" * 1000)).key_id
    assert "\n" not in key_id and len(key_id) < 100


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"iss": "https://other"}, "not valid here"),
        ({"aud": "other"}, "not valid here"),
        ({"exp": 1_000_000}, "expired"),
        ({"iat": None}, "not valid here"),
        ({"exp": None}, "not valid here"),
        ({"sub": None}, "not valid here"),
        ({"iat": int(time.time()) - 10_000}, "not valid here"),
        ({"nbf": int(time.time()) + 1000}, "not valid here"),
        ({"tenant": None}, "claim `tenant`"),
        ({"tenant": "../x"}, "claim `tenant`"),
        ({"tenant": ["acme"]}, "claim `tenant`"),
    ],
)
def test_claims_that_are_refused(identity: Identity, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(Unauthenticated, match=says):
        called(identity, token(**changes))


def part(content: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def forged_with_the_public_key() -> str:
    """HS256 with the bytes that everybody may know as its secret."""
    body = f"{part({'alg': 'HS256', 'kid': 'RS256'})}.{part(claims())}"
    mac = hmac.digest(json.dumps(jwk("RS256")).encode(), body.encode(), hashlib.sha256)
    return f"{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


@pytest.mark.parametrize(
    "text",
    [
        f"{part({'alg': 'none', 'kid': 'RS256'})}.{part(claims())}.",
        forged_with_the_public_key(),
        token(key=STRANGER),
        token(kid="nobody"),
        token("ES256", kid="RS256"),
        token("EdDSA", kid="ES256"),
        token()[:-4] + "AAAA",
        "a.b.c",
        "e30.e30.",
        "",
        "\N{SNOWMAN}",
    ],
)
def test_forgeries(identity: Identity, text: str) -> None:
    with pytest.raises(Unauthenticated):
        called(identity, text)


def test_keys_are_taken_up_when_the_issuer_changes_them(identity: Identity, jwks: Path) -> None:
    new = token(key=STRANGER)
    with pytest.raises(Unauthenticated):
        called(identity, new)
    write(jwks, jwk("EdDSA", STRANGER))
    assert called(identity, new).tenant == "acme"
    with pytest.raises(Unauthenticated):
        called(identity, token())


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a", "alg": "HS256"}]}'],
)
def test_key_sets_that_are_refused(content: str) -> None:
    with pytest.raises(ValueError):
        read_jwks(content.encode())
