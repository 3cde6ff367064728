"""The decoder: one packed forward pass over a step of any sequences and adapters."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from server.kernels.attention import paged_attention, store_kv
from server.kernels.fused import add_rms_norm, rms_norm, rotate, silu_mul
from server.model.config import ModelConfig
from server.model.layers import Linear, Rotary
from server.model.step import Step


@dataclass(frozen=True)
class KvCache:
    """keys, values: one [cells, kv_heads, dim] for each layer."""

    keys: list[Tensor]
    values: list[Tensor]


@dataclass(frozen=True)
class Layer:
    index: int
    attention_norm: Tensor
    qkv: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True)
class Decoder:
    config: ModelConfig
    embedding: Tensor
    layers: list[Layer]
    norm: Tensor
    lm_head: Linear
    rotary: Rotary

    def forward(self, step: Step, cache: KvCache) -> Tensor:
        """Logits [sampled, vocab] of the step's sampled rows; keys and values go to the cache."""
        x = F.embedding(step.token_ids, self.embedding)
        angles = self.rotary.at(step.positions)
        residual = x.new_zeros(x.shape)
        for layer in self.layers:
            x, residual = add_rms_norm(x, residual, layer.attention_norm, self.config.norm_eps)
            x = self._attend(layer, x, angles, step, cache)
            x, residual = add_rms_norm(x, residual, layer.mlp_norm, self.config.norm_eps)
            x = _mlp(layer, x, step)
        x = (x + residual)[step.sampled]
        return self.lm_head(rms_norm(x, self.norm, self.config.norm_eps))

    def _attend(
        self, layer: Layer, x: Tensor, angles: tuple[Tensor, Tensor], step: Step, cache: KvCache
    ) -> Tensor:
        c = self.config
        qkv = _apply(layer, "qkv", layer.qkv, x, step).view(x.shape[0], -1, c.head_dim)
        qk, v = qkv.split((c.num_heads + c.num_kv_heads, c.num_kv_heads), dim=1)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = qk.split((c.num_heads, c.num_kv_heads), dim=1)
            q = rotate(rms_norm(q, layer.q_norm, c.norm_eps), *angles)
            k = rotate(rms_norm(k, layer.k_norm, c.norm_eps), *angles)
        else:
            q, k = rotate(qk, *angles).split((c.num_heads, c.num_kv_heads), dim=1)
        keys, values = cache.keys[layer.index], cache.values[layer.index]
        store_kv(k, v, keys, values, step.attention.cells)
        attended = paged_attention(q, keys, values, step.attention).flatten(1)
        return _apply(layer, "o", layer.o, attended, step)


def _mlp(layer: Layer, x: Tensor, step: Step) -> Tensor:
    return _apply(layer, "down", layer.down, silu_mul(_apply(layer, "gate_up", layer.gate_up, x, step)), step)


def _apply(layer: Layer, name: str, linear: Linear, x: Tensor, step: Step) -> Tensor:
    """The base's linear and, on top, every adapter's update."""
    y = linear(x)
    if step.lora is not None:
        step.lora.add(y, x, layer.index, name)
    return y
