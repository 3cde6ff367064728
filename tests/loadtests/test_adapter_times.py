"""The benchmark of loads and uploads, on an adapter of a toy's size."""

import re
import sys

import pytest

from loadtests import adapter_times


def test_every_stage_is_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(adapter_times, "RUNS", 1)
    monkeypatch.setattr(sys, "argv", ["adapter_times", "--model", "tiny", "--rank", "2"])
    before = sys.getswitchinterval()
    try:
        adapter_times.main()
    finally:
        sys.setswitchinterval(before)
    size, load, beside, turns, upload = capsys.readouterr().out.splitlines()
    assert re.match(r"\d+\.\d MB", size) and turns.startswith("turns")
    figure = r"[\d.]+ / [\d.]+"
    for line in (load, beside):
        assert re.search(f"made of its files {figure}, read, first {figure}, read again {figure}$", line)
    stages = re.findall(rf"(?:^upload: |, )(\D+) {figure}", upload)
    assert stages == ["written and hashed", "synced", "checked", "packed", "committed"]
