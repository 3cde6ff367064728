"""Weights and biases by the checkpoint's names are those that the decoder multiplies with."""

from pathlib import Path

import pytest
import torch

from adapters.shapes import EMBEDDING, HEAD
from server.model.loader import load_decoder
from server.model.provider import ServedWeights
from server.model.shapes import base_shapes


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@torch.inference_mode()
def test_every_linear_is_what_its_output_says(quantization: str, bases: dict[str, Path]) -> None:
    """Qwen2: biases, and q, k, v of several widths in one linear."""
    decoder = load_decoder(bases["qwen2"], quantization, torch.float32, torch.device("cpu"))
    served, shapes = ServedWeights(decoder), base_shapes(decoder.config)
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    of_layer = {"qkv": ("q_proj", "k_proj", "v_proj"), "gate_up": ("gate_proj", "up_proj")}
    for layer in decoder.layers:
        for linear, names in of_layer.items():
            room = "self_attn" if linear == "qkv" else "mlp"
            full = [f"model.layers.{layer.index}.{room}.{name}" for name in names]
            parts = [x @ served.weight(name).T for name in full]
            if shapes.biases.issuperset(full):
                parts = [part + served.bias(name) for part, name in zip(parts, full, strict=True)]
            torch.testing.assert_close(torch.cat(parts, dim=1), getattr(layer, linear)(x), rtol=0, atol=1e-5)
    for name, size in shapes.linears.items():
        assert served.weight(name).shape == size
    assert torch.equal(served.weight(EMBEDDING), decoder.embedding)
    torch.testing.assert_close(x @ served.weight(HEAD).T, decoder.lm_head(x), rtol=0, atol=1e-5)
