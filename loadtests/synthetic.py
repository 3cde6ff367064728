"""Bases and adapters of a real model's shape with random weights, made on the device they stand on."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig

from adapters.normal import AdapterWeights, LinearChange, LowRank
from server.kernels import int8, nf4
from server.model.adapter import AdapterBlob, Allocate
from server.model.blob import make_blob
from server.model.config import ModelConfig
from server.model.decoder import Decoder, Layer
from server.model.layers import DenseWeight, Linear, Rotary, Weight
from server.model.parts import FUSED

# Llama-3.1-8B, Llama-3.2-1B, one that a CPU trains in seconds, and one for tests.
SHAPES: dict[str, dict[str, Any]] = {
    "8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "small": {
        "vocab_size": 4096,
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    "tiny": {
        "vocab_size": 320,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
MAX_CONTEXT = 16384
# Of an adapter's entries: its updates are about a tenth of what they are added to.
ADAPTER_SPREAD = 0.02


def llama_of(shape: str) -> LlamaConfig:
    return LlamaConfig(
        **SHAPES[shape.lower()],
        max_position_embeddings=MAX_CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )


def config_of(shape: str) -> ModelConfig:
    return ModelConfig.from_hf(llama_of(shape))


class RandomBase:
    """Draws a decoder's weights, the same for a seed whatever the quantization."""

    def __init__(
        self, shape: str, quantization: str, dtype: torch.dtype, device: torch.device, seed: int = 0
    ) -> None:
        self.config = config_of(shape)
        self._quantization = quantization
        self._dtype = dtype
        self._device = device
        self._generator = torch.Generator(device).manual_seed(seed)

    def decoder(self) -> Decoder:
        c = self.config
        embedding = self._normal(c.vocab_size, c.hidden_size, 1.0)
        return Decoder(
            config=c,
            embedding=embedding,
            layers=[self._layer(index) for index in range(c.num_layers)],
            norm=self._ones(),
            lm_head=Linear(
                DenseWeight(self._normal(c.vocab_size, c.hidden_size, 3 / math.sqrt(c.hidden_size)))
            ),
            rotary=Rotary.build(c, self._dtype, self._device),
        )

    def _layer(self, index: int) -> Layer:
        qkv, o, gate_up, down = (Linear(self._weight(name)) for name in FUSED)
        return Layer(index, self._ones(), qkv, None, None, o, self._ones(), gate_up, down)

    def _weight(self, linear: str) -> Weight:
        shapes = [self.config.linear_shapes()[f"model.layers.0.{name}"] for name in FUSED[linear]]
        rows, width = sum(shape[0] for shape in shapes), shapes[0][1]
        weight = self._normal(rows, width, 1 / math.sqrt(width))
        if self._quantization == "nf4":
            return nf4.quantize(weight, double_quant=True)
        return int8.quantize(weight) if self._quantization == "int8" else DenseWeight(weight)

    def _normal(self, rows: int, columns: int, spread: float) -> Tensor:
        drawn = torch.randn(rows, columns, generator=self._generator, dtype=self._dtype, device=self._device)
        return drawn.mul_(spread)

    def _ones(self) -> Tensor:
        return torch.ones(self.config.hidden_size, dtype=self._dtype, device=self._device)


def in_float32(decoder: Decoder) -> Decoder:
    """The same weights, computed with in float32; quantized ones are shared."""

    def linear(each: Linear) -> Linear:
        held = each.weight
        return (
            replace(each, weight=DenseWeight(held.weight.float())) if isinstance(held, DenseWeight) else each
        )

    def layer(each: Layer) -> Layer:
        return replace(
            each,
            attention_norm=each.attention_norm.float(),
            mlp_norm=each.mlp_norm.float(),
            qkv=linear(each.qkv),
            o=linear(each.o),
            gate_up=linear(each.gate_up),
            down=linear(each.down),
        )

    return replace(
        decoder,
        embedding=decoder.embedding.float(),
        layers=[layer(each) for each in decoder.layers],
        norm=decoder.norm.float(),
        lm_head=linear(decoder.lm_head),
        rotary=Rotary.build(decoder.config, torch.float32, decoder.embedding.device),
    )


class RandomAdapters:
    """digest -> blob: the n-th adapter, "n" being its digest, is one random blob turned round by n."""

    def __init__(self, config: ModelConfig, rank: int, dtype: torch.dtype, is_pinned: bool) -> None:
        shapes = config.linear_shapes()
        empty = torch.zeros(1)
        weights = {
            name: LinearChange(LowRank(empty.expand(rank, width), empty.expand(rows, rank)))
            for name, (rows, width) in shapes.items()
        }
        self._blob = make_blob(AdapterWeights(weights), config, dtype)
        drawn = torch.randn(self._blob.flat.shape, generator=torch.Generator().manual_seed(0))
        # Values that bfloat16 holds are the same in every dtype.
        self._blob.flat.copy_((drawn * ADAPTER_SPREAD).bfloat16())
        self._is_pinned = is_pinned

    @property
    def num_bytes(self) -> int:
        """Of one adapter."""
        return self._blob.num_bytes

    def __call__(self, digest: str, allocate: Allocate | None = None) -> AdapterBlob:
        flat = self._blob.flat.roll(4099 * int(digest))
        if allocate is not None:
            flat = allocate(flat.numel(), flat.dtype).copy_(flat)
        elif self._is_pinned:
            flat = flat.pin_memory()
        return AdapterBlob(flat, self._blob.pairs)
