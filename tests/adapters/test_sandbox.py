"""What a check does in its process, and what becomes of the process."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from adapters import BaseShapes, InvalidAdapter, StoreUnavailable, line_child
from adapters.line_child import LineChild
from adapters.sandbox import COMMAND, Sandbox

# A process whose checks do something else.
INSTEAD = """
import os, signal
from adapters import sandbox_process as process
def check(*args, **kwargs):
    {code}
process.inspect = check
process.main()
"""


def instead(code: str) -> list[str]:
    return [*COMMAND[:2], "-c", INSTEAD.format(code=code)]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox
        pids = [child.pid for child in sandbox._idle]
    assert pids and not any(map(psutil.pid_exists, pids))


def test_the_same_answer_as_inspect(
    sandbox: Sandbox, builder: Any, base: BaseShapes, config: dict[str, Any]
) -> None:
    folder = builder.folder()
    manifest = builder.manifest(folder)
    assert sandbox.inspect(folder, base, 64) == manifest
    assert sandbox.inspect(folder, base, 64, files=manifest.files) == manifest
    bad = builder.folder(config | {"use_dora": 3, "r": 0})
    with pytest.raises(InvalidAdapter) as caught:
        sandbox.inspect(bad, base, 64)
    assert len(caught.value.problems) == 2


def test_the_child_sees_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    assert set(line_child.environment()) == {
        "PYTHONPATH",
        "OPENBLAS_NUM_THREADS",
        "OMP_NUM_THREADS",
        "PATH",
    }


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("os.kill(os.getpid(), 11)", "signal 11"),
        ("process._limit(1)\n    while True: pass", "signal (9|24)"),
        ("bytearray(3 << 30)", "status 1"),
        ("os._exit(3)", "status 3"),
        ("raise SystemExit(3)", "status 1"),
    ],
)
def test_whatever_a_check_does_is_an_invalid_adapter_and_costs_that_check_only(
    builder: Any, base: BaseShapes, code: str, told: str
) -> None:
    with Sandbox(instead(code)) as sandbox:
        pid = sandbox._idle[0].pid
        for _ in range(2):
            with pytest.raises(InvalidAdapter, match=told):
                sandbox.inspect(builder.folder(), base, 64)
        assert [child.pid for child in sandbox._idle] == [pid]


@pytest.mark.parametrize(
    "said", ["no json", "{}", "[]", '{"manifest": "{}"}', '{"manifest": 3}', "{}\\n{}", "\\xff"]
)
def test_an_answer_that_nobody_can_read_is_an_invalid_adapter(
    builder: Any, base: BaseShapes, said: str
) -> None:
    # 3 is what is kept for answers once the standard output is put away.
    code = f"os.write(3, b'{said}\\n'); os._exit(0)"
    with Sandbox(instead(code)) as sandbox, pytest.raises(InvalidAdapter, match="no readable answer"):
        sandbox.inspect(builder.folder(), base, 64)


def test_what_a_library_prints_is_no_answer(builder: Any, base: BaseShapes) -> None:
    code = "os.write(1, b'hello\\n'); os.write(2, b'hello' * 100_000); raise process.InvalidAdapter(['so'])"
    with Sandbox(instead(code)) as sandbox, pytest.raises(InvalidAdapter, match="so"):
        sandbox.inspect(builder.folder(), base, 64)


def test_what_a_check_said_as_it_ended_is_for_the_log(
    builder: Any, base: BaseShapes, caplog: pytest.LogCaptureFixture
) -> None:
    with Sandbox(instead("raise RuntimeError('odd')")) as sandbox, pytest.raises(InvalidAdapter) as caught:
        sandbox.inspect(builder.folder(), base, 64)
    assert "RuntimeError: odd" in caplog.text and "odd" not in str(caught.value)


def test_a_check_writes_no_file(builder: Any, base: BaseShapes, tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'written')!r}, 'wb', buffering=0).write(b'x')"
    with Sandbox(instead(code)) as sandbox, pytest.raises(StoreUnavailable, match="File too large"):
        sandbox.inspect(builder.folder(), base, 64)
    assert not (tmp_path / "written").stat().st_size


def test_a_check_that_waits_is_stopped(builder: Any, base: BaseShapes) -> None:
    with Sandbox(instead("signal.pause()"), wall_factor=0.05) as sandbox:
        pid = sandbox._idle[0].pid
        with pytest.raises(InvalidAdapter, match="too long"):
            sandbox.inspect(builder.folder(), base, 64)
        assert not psutil.pid_exists(pid)


def test_a_process_that_was_killed_is_replaced(sandbox: Sandbox, builder: Any, base: BaseShapes) -> None:
    folder = builder.folder()
    manifest = sandbox.inspect(folder, base, 64)
    (child,) = sandbox._idle
    os.killpg(child.pid, signal.SIGKILL)
    assert sandbox.inspect(folder, base, 64) == manifest
    assert [each.pid for each in sandbox._idle] != [child.pid]


def test_one_that_is_lost_during_a_check_says_nothing_of_the_adapter(
    builder: Any, base: BaseShapes, tmp_path: Path
) -> None:
    folder = builder.folder()
    once = f"os.path.exists({str(tmp_path / 'died')!r})"
    die = f"open({str(tmp_path / 'died')!r}, 'w').close(); os.kill(os.getppid(), 9); os._exit(0)"
    # Its limit keeps a check from writing files, even empty ones.
    script = INSTEAD.replace("process.main()", "process._limit = lambda seconds: None; process.main()")
    code = f"real = process.check_again\n    if not {once}: {die}\n    return real(*args, **kwargs)"
    script = script.replace("def check(", "process.check_again = process.inspect\ndef check(")
    with Sandbox([*COMMAND[:2], "-c", script.format(code=code)]) as sandbox:
        assert sandbox.inspect(folder, base, 64) == builder.manifest(folder)


def test_trouble_of_the_machine_is_not_the_adapters_fault(builder: Any, base: BaseShapes) -> None:
    with (
        Sandbox(instead("raise OSError(5, 'Input/output error')")) as sandbox,
        pytest.raises(StoreUnavailable, match="Input/output error"),
    ):
        sandbox.inspect(builder.folder(), base, 64)


@pytest.mark.parametrize(
    "command", [["/nonexistent"], [sys.executable, "-c", "raise SystemExit(1)"]], ids=["absent", "ends"]
)
def test_where_no_process_can_be_had_the_adapter_is_not_to_blame(
    builder: Any, base: BaseShapes, command: list[str]
) -> None:
    with Sandbox(command) as sandbox, pytest.raises(StoreUnavailable, match="try again later"):
        sandbox.inspect(builder.folder(), base, 64)


def test_side_by_side_each_check_has_a_process(builder: Any, base: BaseShapes, sandbox: Sandbox) -> None:
    folder = builder.folder()
    with sandbox._checker() as first, sandbox._checker() as second:
        assert isinstance(first, LineChild) and first.pid != second.pid
        assert sandbox.inspect(folder, base, 64) == builder.manifest(folder)
    assert len(sandbox._idle) == 3


def test_a_missing_folder(sandbox: Sandbox, tmp_path: Path, base: BaseShapes) -> None:
    with pytest.raises(InvalidAdapter, match="no folder"):
        sandbox.inspect(tmp_path / "absent", base, 64)
