"""The audit log: every line bound to the one before, whatever happens to the file."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.errors import StoreUnavailable
from lorikeet.cli.main import main
from server.audit import FIRST, AuditLog, BrokenChain, verify


def fill(folder: Path, count: int, max_bytes: int = 1 << 20) -> None:
    log = AuditLog(folder, max_bytes)
    for number in range(count):
        log.write(tenant="acme", what="Delete", name=f"n{number}", code="OK")
    log.close()


def lines(folder: Path) -> list[bytes]:
    return [line for path in sorted(folder.iterdir()) for line in path.read_bytes().splitlines()]


def test_a_chain_over_files_and_restarts(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    for _ in range(3):
        fill(folder, 4, max_bytes=700)
    assert len(list(folder.iterdir())) > 2
    head, found = verify(folder)
    assert head.seq == 12 and not found
    fields = [json.loads(line) for line in lines(folder)]
    assert [each["seq"] for each in fields] == list(range(1, 13))
    assert fields[0]["prev"] == FIRST and fields[-1]["hash"] == head.hash
    assert verify(folder, fields[3]["hash"])[1]


def test_the_line_of_a_killed_server_is_cut_off(tmp_path: Path) -> None:
    fill(tmp_path / "audit", 2)
    (path,) = (tmp_path / "audit").iterdir()
    path.write_bytes(path.read_bytes() + b'{"seq": 3, "ti')
    fill(tmp_path / "audit", 1)
    assert verify(tmp_path / "audit")[0].seq == 3


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_change_is_found_at_its_line(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("a") / "audit"
    fill(folder, 6)
    (path,) = folder.iterdir()
    text = path.read_bytes().splitlines(keepends=True)
    at = data.draw(st.integers(0, 4))
    match data.draw(st.sampled_from(["flip", "drop", "swap", "double"])):
        case "flip":
            # A part of the line, whose length the time in it decides.
            byte = int(data.draw(st.floats(0, 1, exclude_max=True)) * (len(text[at]) - 1))
            changed = bytearray(text[at])
            changed[byte] ^= data.draw(st.sampled_from([1, 2, 4, 8, 16, 32, 64]))
            text[at] = bytes(changed)
        case "drop":
            del text[at]
        case "swap":
            text[at], text[at + 1] = text[at + 1], text[at]
        case "double":
            text.insert(at, text[at])
            at += 1
    path.write_bytes(b"".join(text))
    with pytest.raises(BrokenChain) as caught:
        verify(folder)
    assert f"audit-00000001.jsonl, line {at + 1}: " in str(caught.value)


def test_a_disk_that_fails_ends_all_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(tmp_path / "audit", 1 << 20)
    with monkeypatch.context() as patch:

        def fail(fd: int) -> None:
            raise OSError(5, "Input/output error")

        patch.setattr(os, "fsync", fail)
        with pytest.raises(StoreUnavailable, match="audit log"):
            log.write(what="Delete")
    for again in (log.require, lambda: log.write(what="Delete")):
        with pytest.raises(StoreUnavailable, match="restart"):
            again()
    log.close()


def test_verify_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "audit", 3)
    assert main(["audit", "verify", str(tmp_path / "audit")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("3 lines, unbroken")
    (path,) = (tmp_path / "audit").iterdir()
    text = path.read_text().splitlines(keepends=True)
    path.write_text("".join(text[:2]))
    assert main(["audit", "verify", str(tmp_path / "audit"), "--expect", out.split()[-1]]) == 1
    assert "cut off" in capsys.readouterr().err
    path.write_text(text[0] + text[1].replace("acme", "evil") + text[2])
    assert main(["audit", "verify", str(tmp_path / "audit")]) == 1
    assert "audit-00000001.jsonl, line 2" in capsys.readouterr().err
    assert main(["audit", "verify", str(tmp_path / "nowhere")]) == 1
