"""The decoder: one packed forward pass over a step of any sequences and adapters."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from server.kernels.attention import Heads
from server.kernels.lora import Part, Update
from server.model.config import ModelConfig
from server.model.layers import Linear, Rotary
from server.model.operations import TORCH, Operations, Pair
from server.model.step import Lora, Step, linear_parts


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
    operations: Operations = TORCH

    @cached_property
    def heads(self) -> Heads:
        return Heads(self.config.num_heads, self.config.num_kv_heads, self.config.head_dim)

    @cached_property
    def parts(self) -> dict[str, tuple[Part, ...]]:
        return linear_parts(self.config)

    def forward(self, step: Step, cache: KvCache) -> Tensor:
        """Logits [sampled, vocab] of the step's sampled rows; keys and values go to the cache."""
        add_norm, eps = self.operations.add_rms_norm, self.config.norm_eps
        x = self.operations.embed(step.token_ids, step.previous, self.embedding)
        angles = self.operations.angles((self.rotary.cos, self.rotary.sin), step.positions)
        lora = step.lora.located() if step.lora is not None else None
        residual = torch.zeros_like(x)
        for layer in self.layers:
            x, residual = add_norm(x, residual, layer.attention_norm, eps)
            x = self._attend(layer, x, lora, angles, step, cache)
            x, residual = add_norm(x, residual, layer.mlp_norm, eps)
            x = self._mlp(layer, x, lora)
        if step.sampled is not None:
            x, residual = x[step.sampled], residual[step.sampled]
        x, _ = add_norm(x, residual, self.norm, eps)
        return self.lm_head(x)

    def _attend(
        self, layer: Layer, x: Tensor, lora: Lora | None, angles: Pair, step: Step, cache: KvCache
    ) -> Tensor:
        qkv = self._apply(layer, "qkv", layer.qkv, x, lora)
        norms = None
        if layer.q_norm is not None and layer.k_norm is not None:
            norms = (layer.q_norm, layer.k_norm, self.config.norm_eps)
        keys, values = cache.keys[layer.index], cache.values[layer.index]
        attended = self.operations.attend(
            qkv, self.heads, norms, angles, step.positions, keys, values, step.attention
        )
        return self._apply(layer, "o", layer.o, attended, lora)

    def _mlp(self, layer: Layer, x: Tensor, lora: Lora | None) -> Tensor:
        gated = self.operations.gated(layer.gate_up, x, self._update(layer, "gate_up", lora))
        return self._apply(layer, "down", layer.down, gated, lora)

    def _apply(self, layer: Layer, name: str, linear: Linear, x: Tensor, lora: Lora | None) -> Tensor:
        """The base's linear and, on top, every adapter's update."""
        return linear(x, self._update(layer, name, lora))

    def _update(self, layer: Layer, name: str, lora: Lora | None) -> Update | None:
        return None if lora is None else lora.of(layer.index, name, self.parts[name])
