from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from adapters import BaseShapes, InvalidAdapter, StoreUnavailable, inspect_in_sandbox, sandbox

LIMITED = "from adapters.sandbox import _limit\n"


def test_the_same_answer_as_inspect(builder: Any, base: BaseShapes, config: dict[str, Any]) -> None:
    folder = builder.folder()
    manifest = builder.manifest(folder)
    assert inspect_in_sandbox(folder, base, 64) == manifest
    assert inspect_in_sandbox(folder, base, 64, files=manifest.files) == manifest
    bad = builder.folder(config | {"use_dora": 3, "r": 0})
    with pytest.raises(InvalidAdapter) as caught:
        inspect_in_sandbox(bad, base, 64)
    assert len(caught.value.problems) == 2


def test_the_child_sees_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    assert set(sandbox.environment()) == {"PYTHONPATH", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "PATH"}


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.kill(os.getpid(), 11)",
        LIMITED + "_limit(1)\nwhile True: pass",
        LIMITED + "_limit(5); bytearray(3 << 30)",
        LIMITED + "_limit(5)\nimport tempfile\ntempfile.TemporaryFile(buffering=0).write(b'x')",
        "print('no json')",
        "print('{}')",
        "print('[]')",
        'print(\'{"manifest": "{}"}\')',
        "raise SystemExit(3)",
    ],
)
def test_whatever_the_child_does_is_an_invalid_adapter(
    builder: Any, base: BaseShapes, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(sandbox, "_COMMAND", code)
    with pytest.raises(InvalidAdapter):
        inspect_in_sandbox(builder.folder(), base, 64)


def test_a_child_that_waits_is_stopped(
    builder: Any, base: BaseShapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_COMMAND", "import signal; signal.pause()")
    monkeypatch.setattr(sandbox, "WALL_FACTOR", 0.05)
    with pytest.raises(InvalidAdapter, match="too long"):
        inspect_in_sandbox(builder.folder(), base, 64)


def test_trouble_of_the_machine_is_not_the_adapters_fault(
    builder: Any, base: BaseShapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_COMMAND", 'print(\'{"unavailable": "Input/output error"}\')')
    with pytest.raises(StoreUnavailable, match="Input/output error"):
        inspect_in_sandbox(builder.folder(), base, 64)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(StoreUnavailable, match="could not be started"):
        inspect_in_sandbox(builder.folder(), base, 64)


def test_a_missing_folder(tmp_path: Path, base: BaseShapes) -> None:
    with pytest.raises(InvalidAdapter, match="no folder"):
        inspect_in_sandbox(tmp_path / "absent", base, 64)
