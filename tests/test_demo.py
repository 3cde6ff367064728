"""The demo as a user runs it, from nothing: minutes of training, so only among the long tests."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_skill_convinces_on_its_whole_held_out_set(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lorikeet.cli", "demo", "--root", str(tmp_path / "demo")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for skill in ("legal", "medical", "risk"):
        assert f"{skill}: " in done.stdout
    assert done.stdout.count("of 120 held-out prompts right") == 3
