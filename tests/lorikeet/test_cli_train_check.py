"""`lorikeet train check`: exit codes, and what is printed."""

import json

import pytest


@pytest.fixture
def broken(tmp_path):
    """A run whose only file of rows has two bad lines."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n{"prompt": "a", "completion": "b"}\nnothing\n')
    file = tmp_path / "run.toml"
    file.write_text('base = "b"\noutput = "o"\n[data]\ntrain = "rows.jsonl"\n')
    return file


def test_a_wrong_setting_is_found(run, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('base = "b"\noutput = "o"\n[data]\ntrian = "rows.jsonl"\n')
    code, out, err = run("train", "check", file)
    assert (code, err) == (1, "")
    assert "data.trian is not an option: did you mean data.train" in out
    assert "not ready to train: 1 errors" in out


def test_bad_rows_are_told_by_line(run, broken):
    code, out, _ = run("train", "check", broken, "--json")
    found = json.loads(out)
    assert (code, found["passed"]) == (1, False)
    texts = [finding["text"] for finding in found["findings"] if finding["rule"] == "rows"]
    assert "line 1: completion missing" in texts[0] and "line 3: not JSON" in texts[1]


def test_the_subcommands_are_listed_and_have_help(run):
    code, out, _ = run("train", "--help")
    assert code == 0
    assert "check" in out and "in place of RUN.toml" in out
    code, out, _ = run("train", "check", "--help")
    assert code == 0
    assert "usage: lorikeet train check" in out


def test_a_run_file_may_be_called_like_a_subcommand(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("train", "./check")
    assert code == 2
    assert "check cannot be read" in err
