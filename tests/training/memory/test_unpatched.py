"""What other libraries have put into transformers' modules is out of them while a step is rehearsed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers.models.llama import modeling_llama

from training.base import read_base
from training.config import TrainConfig
from training.memory.estimate import estimate
from training.memory.rehearsal import Batch
from training.memory.unpatched import unpatched


class Kernel(modeling_llama.LlamaRMSNorm):  # type: ignore[misc]
    def forward(self, hidden_states: Any) -> Any:
        raise AssertionError("a kernel has met a tensor without bytes")


def turned(*_: Any, **__: Any) -> Any:
    raise AssertionError("a kernel has met a tensor without bytes")


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_llama, "LlamaRMSNorm", Kernel)
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", turned)


def test_a_patched_module_is_whole_again_for_a_while(base: Path, patched: None) -> None:
    with unpatched(read_base(str(base))):
        assert modeling_llama.LlamaRMSNorm.__module__ == modeling_llama.__name__
        assert modeling_llama.apply_rotary_pos_emb is not turned
    assert modeling_llama.LlamaRMSNorm is Kernel
    assert modeling_llama.apply_rotary_pos_emb is turned


def test_a_module_that_nobody_patched_stays(base: Path) -> None:
    before = dict(vars(modeling_llama))
    with unpatched(read_base(str(base))):
        assert dict(vars(modeling_llama)) == before


def test_an_estimate_does_not_depend_on_who_trained_before(
    base: Path, request: pytest.FixtureRequest
) -> None:
    config, batch = TrainConfig(base=str(base)), Batch(2, 16, ragged=False)
    alone = estimate(config, batch, gpu=False)
    request.getfixturevalue("patched")
    assert estimate(config, batch, gpu=False) == alone
