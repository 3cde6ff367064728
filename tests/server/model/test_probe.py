"""The measured error of logits is the one between PEFT's own logits and those of what is served."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from adapters import InvalidAdapter, inspect
from adapters.deltas.context import Base
from adapters.prepared import load, prepare, updates_of
from server.engine import reader
from server.engine.config import EngineConfig
from server.engine.reader import AdapterReader
from server.model.config import ModelConfig
from server.model.loader import load_decoder
from server.model.probe import Probe
from server.model.provider import ServedWeights
from server.model.shapes import base_shapes
from tests.dense import logits
from tests.peft_kinds import KINDS
from tests.toys import make_base

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
MAX_RANK = 4


def fading_loha(base: Path, folder: Path) -> Any:
    """A LoHa of rank 9 whose factors fall fast, so that rank 4 is near; returns PEFT's model."""
    model = KINDS["loha"](AutoModelForCausalLM.from_pretrained(base), folder)
    state = load_file(folder / "adapter_model.safetensors")
    for name, tensor in state.items():
        if name.endswith("_a"):
            state[name] = tensor * torch.tensor([1.0, 1e-2, 1e-4])
    save_file(state, folder / "adapter_model.safetensors")
    for name, parameter in model.named_parameters():
        if (key := name.replace(".default", "")) in state:
            parameter.data.copy_(state[key])
    return model.eval()


@torch.inference_mode()
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_the_error_is_that_of_pefts_logits(family: str, tmp_path: Path) -> None:
    """Tied tables, biases of q, k and v, norms of q and k."""
    base = make_base(tmp_path / "base", family)
    peft = fading_loha(base, tmp_path / "adapter")
    decoder = load_decoder(base, "none", torch.float32, torch.device("cpu"))
    served = ServedWeights(decoder)
    shapes = base_shapes(ModelConfig.from_hf(AutoConfig.from_pretrained(base)), "f" * 64)
    over = Base(shapes, served.weight, served.bias)
    manifest = inspect(tmp_path / "adapter", shapes, MAX_RANK)
    assert prepare(tmp_path / "adapter", manifest, over, MAX_RANK).error > 1e-6
    weights = load(tmp_path / "adapter", manifest, shapes, MAX_RANK)
    updates = updates_of(tmp_path / "adapter", manifest, over, MAX_RANK)
    assert updates is not None
    probe, pairs = Probe(decoder, over), {name: each.low_rank for name, each in weights.linears.items()}
    found = probe.error(updates, pairs.get)
    ids = probe._tokens[None]
    exact = peft(ids).logits
    plain = AutoModelForCausalLM.from_pretrained(base)
    error = float((exact - logits(plain, weights, ids)).norm() / exact.norm())
    assert found == pytest.approx(error, rel=0.1) and 1e-7 < error < 1e-3
    assert Probe(decoder, over, max_seconds=-1).error(updates, pairs.get) is None


def test_an_upload_says_its_error_or_is_refused_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(tmp_path / "base", "qwen2")
    fading_loha(base, tmp_path / "adapter")
    shapes = base_shapes(ModelConfig.from_hf(AutoConfig.from_pretrained(base)), "f" * 64)
    config = EngineConfig(base=str(base), adapter_store=tmp_path / "store", max_rank=MAX_RANK)
    read = AdapterReader(config, load_decoder(base, "none", torch.float32, torch.device("cpu")), shapes)
    manifest = read.prepare(tmp_path / "adapter", inspect(tmp_path / "adapter", shapes, MAX_RANK))
    assert manifest.conversion is not None and manifest.conversion.logit_error is not None
    assert 0 < manifest.conversion.logit_error < manifest.conversion.error < 1e-3
    monkeypatch.setattr(reader, "MAX_ERROR", manifest.conversion.logit_error / 2)
    with pytest.raises(InvalidAdapter, match="logits over this base are .* merge"):
        read.prepare(tmp_path / "adapter", manifest)
