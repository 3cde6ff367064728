"""Keys: their text, their file, their life."""

import json
import multiprocessing
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import InvalidName
from server.errors import Unauthenticated
from server.identity.identity import Identity
from server.identity.keys import KeyFile, NoSuchKey, read_table
from server.identity.live_file import LiveFile
from server.identity.scopes import INFER, READ
from server.identity.tenants import open_tenants
from server.identity.token import Token

DAY = 86_400.0


class Clock:
    """Moved by the test."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path, clock: Clock) -> KeyFile:
    return KeyFile(tmp_path / "keys.json", clock)


@pytest.fixture
def identity(tmp_path: Path, clock: Clock, file: KeyFile) -> Identity:
    file.create("first", [INFER])
    return Identity(
        LiveFile((tmp_path / "keys.json",), read_table).get, None, open_tenants(None), clock=clock
    )


def called(identity: Identity, token: Token) -> str:
    return identity.caller([("authorization", f"Bearer {token.text}")], {}).tenant


def refusal(identity: Identity, token: Token) -> str:
    with pytest.raises(Unauthenticated) as caught:
        called(identity, token)
    return str(caught.value)


def test_the_text_of_a_key() -> None:
    token = Token.mint()
    assert Token.parse(token.text) == token
    assert token.text.startswith(f"lmk_{token.key_id}_{token.secret}")
    assert token.secret not in repr(token)


@given(at=st.integers(0, 88), letter=st.characters(codec="ascii"))
def test_no_mistyped_key_is_one(at: int, letter: str) -> None:
    text = Token("0123456789ab", "ab" * 32).text
    changed = text[:at] + letter + text[at + 1 :]
    assert changed == text or Token.parse(changed) is None


def test_what_is_kept_is_no_secret(tmp_path: Path, file: KeyFile) -> None:
    _, token = file.create("acme", [INFER, READ], DAY, "for the test")
    path = tmp_path / "keys.json"
    assert token.secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keys.json", "keys.json.lock"]
    (key,) = file.read()
    assert (key.tenant, key.scopes, key.note, key.expires_at) == (
        "acme",
        (READ, INFER),
        "for the test",
        1e9 + DAY,
    )


def test_a_key_lives_until_it_expires(identity: Identity, file: KeyFile, clock: Clock) -> None:
    _, token = file.create("acme", [INFER], DAY)
    assert called(identity, token) == "acme"
    clock.now += DAY
    assert "expired" in refusal(identity, token)


def test_rotation_keeps_two_secrets_and_no_third(identity: Identity, file: KeyFile, clock: Clock) -> None:
    key, first = file.create("acme", [INFER])
    _, second = file.rotate(key.id, DAY)
    assert [called(identity, token) for token in (first, second)] == ["acme", "acme"]
    _, third = file.rotate(key.id, DAY)
    assert "not valid" in refusal(identity, first)
    assert [called(identity, token) for token in (second, third)] == ["acme", "acme"]
    clock.now += DAY
    assert "not valid" in refusal(identity, second)
    assert called(identity, third) == "acme"


def test_revoking_is_at_once_and_for_good(identity: Identity, file: KeyFile) -> None:
    key, token = file.create("acme", [INFER])
    assert called(identity, token) == "acme"
    file.revoke(key.id)
    assert "revoked" in refusal(identity, token)
    with pytest.raises(NoSuchKey):
        file.rotate(key.id, DAY)


def test_a_wrong_secret_and_an_unknown_key_get_the_same_words(identity: Identity, file: KeyFile) -> None:
    key, _ = file.create("acme", [INFER], 1.0)
    file.revoke(key.id)
    assert refusal(identity, Token.mint(key.id)) == refusal(identity, Token.mint())


def test_what_cannot_be(file: KeyFile, tmp_path: Path) -> None:
    with pytest.raises(InvalidName):
        file.create("Not A Tenant", [INFER])
    with pytest.raises(ValueError, match="no such scope: root"):
        file.create("acme", ["root"])
    with pytest.raises(NoSuchKey):
        file.revoke("0123456789ab")
    assert file.read() == ()


@pytest.mark.parametrize("content", ["", "[]", '{"keys": [{"id": "x"}]}', '{"keys": [], "more": 1}'])
def test_a_damaged_file_leaves_what_it_said_in_force(
    tmp_path: Path, identity: Identity, file: KeyFile, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, token = file.create("acme", [INFER])
    assert called(identity, token) == "acme"
    path = tmp_path / "keys.json"
    whole = path.read_bytes()
    path.write_text(content)
    assert [called(identity, token) for _ in range(3)] == ["acme"] * 3
    assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 1
    path.unlink()
    assert [called(identity, token) for _ in range(3)] == ["acme"] * 3
    path.write_bytes(whole.replace(b"acme", b"emca"))
    assert called(identity, token) == "emca"
    with pytest.raises(ValueError, match="no file of keys"):
        read_table(content.encode())


def _create(path: str, count: int) -> None:
    for _ in range(count):
        KeyFile(Path(path)).create("acme", [INFER])


def test_changes_from_several_processes_are_all_kept(tmp_path: Path) -> None:
    path = str(tmp_path / "keys.json")
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_create, args=(path, 5)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert len(json.loads(Path(path).read_text())["keys"]) == 15
