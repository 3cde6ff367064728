"""Cores of the driver and of what it measures."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.drive import cores

needs_two = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores"
)


@needs_two
def test_two_processes_share_no_core_while_it_lasts() -> None:
    all_cores = os.sched_getaffinity(0)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with cores.beside(other.pid):
        ours, theirs = os.sched_getaffinity(0), os.sched_getaffinity(other.pid)
        assert len(theirs) == 1 and ours | theirs == all_cores and not ours & theirs
    assert os.sched_getaffinity(0) == all_cores
    other.communicate(b"\n")


def test_what_the_system_does_not_say_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for thread, waited in (("1", 2_000_000_000), ("2", 500_000_000)):
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(f"7 {waited} 3\n")
    monkeypatch.setattr(cores, "TASKS", tmp_path)
    assert cores.waited_seconds() == 2.5
    monkeypatch.setattr(cores, "TASKS", tmp_path / "none")
    assert math.isnan(cores.waited_seconds())
