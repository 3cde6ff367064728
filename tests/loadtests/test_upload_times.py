"""The benchmark of whole uploads, on an adapter of a toy's size."""

import re
import sys

import pytest

from loadtests import upload_times
from server.engine.packers import Packers


def test_every_part_is_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["upload_times", "--model", "tiny", "--rank", "2", "--runs", "1"])
    # Two more processes with torch in them would take longer than all else.
    monkeypatch.setattr(upload_times, "Packers", lambda as_processes, likely: Packers(False, likely))
    upload_times.main()
    size, *rows = capsys.readouterr().out.splitlines()
    assert re.match(r"\d+\.\d MB, 1 times", size)
    named = [re.fullmatch(r"([\w' ]+): \d+ \(\d+\)", row) for row in rows]
    assert [found and found[1] for found in named] == [
        "hashed by the client",
        "uploaded",
        "processor time of front and packers",
        "packed adapter read",
    ]
