"""Which decoders run on the kernels, and what keeps the others from it."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from server.model import acceleration
from server.model.acceleration import why_not
from server.model.decoder import Decoder
from server.model.loader import load_decoder


@pytest.fixture
def decoder(bases: Any) -> Decoder:
    """Heads of 32, in bfloat16."""
    return load_decoder(bases["qwen3"], "none", torch.bfloat16, torch.device("cpu"))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(acceleration, "importlib", SimpleNamespace(import_module=lambda name: None))


def test_a_cpu_is_left_alone(decoder: Decoder) -> None:
    assert why_not(decoder) == "they are for CUDA devices"


@pytest.mark.usefixtures("device")
def test_every_reason_is_a_sentence(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not(decoder) == ""
    assert "not in float32" in why_not(replace(decoder, embedding=decoder.embedding.float()))
    odd = replace(decoder, config=replace(decoder.config, intermediate_size=100))
    assert "multiples of 8" in why_not(odd)
    assert "dim=48" in why_not(replace(decoder, config=replace(decoder.config, head_dim=48)))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "older than compute capability 8.0" in why_not(decoder)


@pytest.mark.usefixtures("device")
def test_a_package_that_is_missing_is_named(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(acceleration, "importlib", SimpleNamespace(import_module=refuse))
    assert why_not(decoder) == "the package cuda.bindings is missing"
