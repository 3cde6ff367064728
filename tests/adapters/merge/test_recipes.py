"""The base as an adapter knew it, held against what bitsandbytes and transformers make of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from adapters.merge.checkpoint import Checkpoint
from adapters.merge.errors import MergeRefused
from adapters.merge.recipes import Trained, find_recipe
from server.kernels import int8, nf4
from tests.toys import make_base

QLORA = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.float32,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("recipes") / "base", "qwen2")


def test_nf4_is_what_the_trainer_multiplied_by(base: Path) -> None:
    """A forward pass through transformers' own quantized linears, column by column of the identity."""
    live = AutoModelForCausalLM.from_pretrained(base, quantization_config=QLORA)
    trained = Trained(Checkpoint(base), "nf4")
    for name, module in live.named_modules():
        if type(module).__name__ == "Linear4bit":
            with torch.inference_mode():
                bias = 0 if module.bias is None else module.bias
                weight = (module(torch.eye(module.in_features)) - bias).T
            torch.testing.assert_close(trained[f"{name}.weight"], weight, rtol=0, atol=2e-6)
            assert not torch.equal(trained[f"{name}.weight"], Checkpoint(base)[f"{name}.weight"])


@pytest.mark.parametrize("recipe", ["nf4", "int8"])
def test_recipes_are_what_the_server_multiplies_by(recipe: str, base: Path) -> None:
    checkpoint = Checkpoint(base)
    for name in checkpoint.shapes().linears:
        stored = checkpoint[f"{name}.weight"]
        served = nf4.quantize(stored, double_quant=True) if recipe == "nf4" else int8.quantize(stored)
        ours = Trained(checkpoint, recipe)[f"{name}.weight"]
        assert torch.equal(ours, served.dequantize(torch.float32))


def test_only_the_layers_linears_are_quantized(base: Path) -> None:
    checkpoint = Checkpoint(base)
    trained = Trained(checkpoint, "nf4")
    same = {name for name in checkpoint.names() if torch.equal(trained[name], checkpoint[name].float())}
    assert {name for name in checkpoint.names() if not checkpoint.is_linear(name)} == same
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.bias"} <= same


def test_a_cast_before_quantization_is_replayed(base: Path) -> None:
    """A float32 checkpoint that was trained on as bfloat16 had other codes and scales."""
    name = "model.layers.0.mlp.down_proj.weight"
    as_stored, cast = (Trained(Checkpoint(base), "nf4", dtype)[name] for dtype in (None, torch.bfloat16))
    assert not torch.equal(as_stored, cast)
    live = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, quantization_config=QLORA)
    weight = nf4.from_state(
        live.model.layers[0].mlp.down_proj.weight.data,
        live.model.layers[0].mlp.down_proj.weight.quant_state,
        64,
    )
    assert torch.equal(cast, weight.dequantize(torch.float32))


def test_a_base_that_was_quantized_before_is_read_as_it_stands(base: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(base, quantization_config=QLORA).save_pretrained(tmp_path)
    saved = Checkpoint(tmp_path)
    assert saved.is_quantized
    assert saved.shapes() == Checkpoint(base).shapes()
    assert find_recipe(None, None, saved) == "nf4"
    name = "model.layers.1.self_attn.k_proj.weight"
    assert torch.equal(Trained(saved, "nf4")[name], Trained(Checkpoint(base), "nf4")[name])
    with pytest.raises(MergeRefused, match="trained-on says none; the base's own quantization says nf4"):
        find_recipe("none", None, saved)


def test_bases_that_are_none_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(MergeRefused, match="has no config.json"):
        Checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    with pytest.raises(MergeRefused, match="no model.safetensors"):
        Checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    with pytest.raises(MergeRefused, match="quantized as gptq"):
        Checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(MergeRefused, match="must hold a JSON object"):
        Checkpoint(tmp_path)
