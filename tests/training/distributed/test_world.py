from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from training.distributed.world import ALONE, join


def test_what_deepspeed_misses_here_is_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deepspeed.py").write_text("print('no compiler here')\n")
    monkeypatch.syspath_prepend(tmp_path)
    # Whatever was there before comes back, and so does nothing.
    monkeypatch.setitem(sys.modules, "deepspeed", ModuleType("deepspeed"))
    monkeypatch.delitem(sys.modules, "deepspeed")
    assert join() == ALONE
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "no compiler here\n")
