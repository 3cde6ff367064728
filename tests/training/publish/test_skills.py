"""The whole way in one script: rows are written, skills trained, and a server answers by alias."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorikeet.cli.main import main
from tests.whole import ready

SKILLS = ("legal", "medical", "risk")


def test_three_skills_from_raw_rows_to_live_aliases(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["skills", "--tiny", "--root", str(tmp_path)]) == 0, capsys.readouterr().err
    table = capsys.readouterr().out
    for skill in SKILLS:
        assert f"{skill}@prod = {skill}@1" in table
        report = json.loads((tmp_path / "skills" / skill / "adapter" / "publish_report.json").read_text())
        assert report["candidate"]["loss"] < report["base"]["loss"]
        assert report["parity"]["largest"] < 1e-3 < report["parity"]["effect"]
        assert (tmp_path / "skills" / skill / "train.jsonl").read_text().count("\n") == 32


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_at_full_size_they_are_right(tmp_path: Path) -> None:
    assert main(["skills", "--root", str(tmp_path)]) == 0
    with ready(tmp_path / "base", tmp_path) as (_, client):
        for skill in SKILLS:
            result = client.generate("Hello", adapter=f"{skill}@prod", max_new_tokens=2).result()
            assert result.adapter_version == f"{skill}@1", "the alias is there in the next server too"
    for skill in SKILLS:
        report = json.loads((tmp_path / "skills" / skill / "adapter" / "publish_report.json").read_text())
        assert report["candidate"]["accuracy"] > 0.9
