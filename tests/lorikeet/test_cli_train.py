"""`lorikeet train`: arguments, and the adapter's way to a server. The run itself is stood in for."""

from types import SimpleNamespace

import pytest

from lorikeet.cli import train
from lorikeet.cli.command import UsageError


@pytest.fixture
def trained(monkeypatch, adapter_folder):
    """The files that were trained on, each run ending in the same adapter."""
    seen = []

    def stand_in(path):
        seen.append(path.name)
        return adapter_folder

    monkeypatch.setattr(
        train, "read_settings", lambda path: SimpleNamespace(name=path.name, task="sft", method="lora")
    )
    monkeypatch.setattr(train, "_train", stand_in)
    return seen


def test_the_folder_is_printed(run, trained, adapter_folder):
    assert run("train", "run.toml") == (0, f"{adapter_folder}\n", "")
    assert trained == ["run.toml"]


def test_the_adapter_is_uploaded_if_asked_to(run, trained, server):
    code, out, _ = run("train", "run.toml", "--register", server.target, "--name", "acme")
    assert code == 0
    assert server.adapters.uploads[0][0].header.name == "acme"
    assert out.splitlines()[1].split() == ["id", "acme@1"]


def test_a_failed_upload_still_says_where_the_adapter_is(run, trained, dead_target, adapter_folder):
    code, out, err = run("train", "run.toml", "--register", dead_target, "--name", "acme")
    assert (code, out) == (1, f"{adapter_folder}\n")
    assert "lorikeet: " in err


@pytest.mark.parametrize("flags", [["--register", "host:1"], ["--name", "acme"]])
def test_half_a_registration_is_refused_before_training(run, trained, flags):
    code, _, err = run("train", "run.toml", *flags)
    assert (code, err) == (2, "lorikeet: --register and --name go together\n")
    assert trained == []


def test_a_wrong_run_file_is_wrong_usage(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('bse = "b"\n')
    with pytest.raises(UsageError, match="bse"):
        train.read_settings(file)
