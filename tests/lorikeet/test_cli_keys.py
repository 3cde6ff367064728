"""`lorikeet keys`, as an administrator uses it."""

import json
from pathlib import Path

import pytest

from lorikeet.cli.main import main
from server.identity.keys import KeyFile
from server.identity.token import Token


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORIKEET_KEYS", str(tmp_path / "sub" / "keys.json"))
    return tmp_path / "sub" / "keys.json"


def test_the_life_of_a_key(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "--tenant", "acme", "--scopes", "infer", "--expires-in", "90d"]) == 0
    shown = capsys.readouterr()
    first = Token.parse(shown.out.strip())
    assert first is not None and "shown only now" in shown.err
    assert main(["keys", "rotate", first.key_id]) == 0
    second = Token.parse(capsys.readouterr().out.strip())
    assert second is not None and second.key_id == first.key_id and second.secret != first.secret
    (key,) = KeyFile(path).read()
    assert [secret.sha256 for secret in key.secrets] == [first.sha256, second.sha256]
    assert main(["keys", "list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["id"], row["tenant"], row["scopes"], row["state"]) == (key.id, "acme", "infer", "live")
    assert main(["keys", "revoke", key.id]) == 0
    assert main(["keys", "list"]) == 0
    out = capsys.readouterr().out
    assert "revoked" in out and first.secret not in out
    assert main(["keys", "revoke", key.id]) == 1
    assert "no live key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tenant", "acme", "--scopes", "root"], "no such scope"),
        (["--tenant", "acme", "--expires-in", "soon"], "no length of time"),
        (["--tenant", "No Tenant"], "is no tenant"),
        ([], "--tenant"),
    ],
)
def test_what_cannot_be(
    path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["keys", "create", *arguments]) in (1, 2)
    assert says in capsys.readouterr().err
    assert not path.exists()


def test_a_damaged_file_is_said_and_kept(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.parent.mkdir()
    path.write_text("{}]")
    assert main(["keys", "create", "--tenant", "acme"]) == 2
    assert "no file of keys" in capsys.readouterr().err
    assert path.read_text() == "{}]"
