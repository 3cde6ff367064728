"""What parses bytes of strangers, fed by a fuzzer that sees which lines they reach."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
FUZZ = Path(__file__).parent / "fuzz.py"


def fuzz(*words: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.run(
        [sys.executable, str(FUZZ), *words], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "limit",
    [
        "runs=20000",
        pytest.param("max_total_time=3600", marks=[pytest.mark.long, pytest.mark.timeout(4000)]),
    ],
)
@pytest.mark.parametrize("target", ["header", "config", "request"])
def test_strangers_bytes_are_refused_as_documented(target: str, limit: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    ended = fuzz(target, limit, str(tmp_path))
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    done = re.search(r"Done (\d+) runs", ended.stderr)
    assert done and int(done[1]) > 1000, ended.stderr[-1000:]


def test_another_exception_would_be_seen(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    assert fuzz("broken", "max_total_time=60", str(tmp_path)).returncode != 0
    assert list(tmp_path.glob("crash-*"))
