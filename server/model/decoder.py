"""The decoder: one packed forward pass over a step of any sequences and adapters."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from server.kernels.attention import Heads
from server.kernels.lora import Part
from server.model.config import ModelConfig
from server.model.layers import Linear, Rotary
from server.model.linears import Lora
from server.model.operations import TORCH, Norms, Operations, Pair
from server.model.parts import linear_parts
from server.model.step import Step
from server.model.whole import WholeStep


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

    def name(self, part: str) -> str:
        """In the checkpoint."""
        return f"model.layers.{self.index}.{part}"


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
        """Logits [sampled, vocab] of the step's sampled rows; keys and values go to the cache.

        Where an adapter knows tokens of its own there are as many columns more.
        """
        x, whole = self._embed(step), step.whole
        angles = self.operations.angles((self.rotary.cos, self.rotary.sin), step.positions)
        lora = step.lora.located() if step.lora is not None else None
        residual = torch.zeros_like(x)
        for layer in self.layers:
            x, residual = self._norm(x, residual, layer.attention_norm, whole, layer.name("input_layernorm"))
            x = self._attend(layer, x, lora, angles, step, cache)
            x, residual = self._norm(
                x, residual, layer.mlp_norm, whole, layer.name("post_attention_layernorm")
            )
            x = self._mlp(layer, x, lora)
        if step.sampled is not None:
            x, residual = x[step.sampled], residual[step.sampled]
        x, _ = self._norm(x, residual, self.norm, whole, "model.norm", sampled=True)
        logits = self.lm_head(x)
        return logits if whole is None else whole.head(logits, x)

    def _embed(self, step: Step) -> Tensor:
        if step.whole is None:
            return self.operations.embed(step.token_ids, step.previous, self.embedding)
        return step.whole.embed(self.operations, step.token_ids, step.previous, self.embedding)

    def _norm(
        self,
        x: Tensor,
        residual: Tensor,
        weight: Tensor,
        whole: WholeStep | None,
        name: str,
        sampled: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """(norm(x + residual), x + residual)."""
        eps = self.config.norm_eps
        x, residual = self.operations.add_rms_norm(x, residual, weight, eps)
        return (x if whole is None else whole.norm(x, residual, name, eps, sampled)), residual

    def _attend(
        self, layer: Layer, x: Tensor, lora: Lora | None, angles: Pair, step: Step, cache: KvCache
    ) -> Tensor:
        qkv = self._apply(layer, "qkv", layer.qkv, x, lora)
        norms: Norms | None = None
        if layer.q_norm is not None and layer.k_norm is not None:
            norms = (layer.q_norm, layer.k_norm, self.config.norm_eps)
            if step.whole is not None:
                names = layer.name("self_attn.q_norm"), layer.name("self_attn.k_norm")
                norms = step.whole.norm_heads(qkv, self.heads, norms, names)
        keys, values = cache.keys[layer.index], cache.values[layer.index]
        attended = self.operations.attend(
            qkv, self.heads, norms, angles, step.positions, keys, values, step.attention
        )
        return self._apply(layer, "o", layer.o, attended, lora)

    def _mlp(self, layer: Layer, x: Tensor, lora: Lora | None) -> Tensor:
        parts = self.parts["gate_up"]
        if lora is not None and lora.adjusted(layer.index, "gate_up", parts) is not None:
            gated = self.operations.silu_mul(self._apply(layer, "gate_up", layer.gate_up, x, lora))
        else:
            update = None if lora is None else lora.of(layer.index, "gate_up", parts)
            gated = self.operations.gated(layer.gate_up, x, update)
        return self._apply(layer, "down", layer.down, gated, lora)

    def _apply(self, layer: Layer, name: str, linear: Linear, x: Tensor, lora: Lora | None) -> Tensor:
        """The base's linear and, on top, whatever the adapters do to it. x may be overwritten."""
        if lora is None:
            return linear(x)
        place = layer.index, name, self.parts[name]
        update, adjusted = lora.of(*place), lora.adjusted(*place)
        return linear(x, update) if adjusted is None else adjusted.apply(linear, x, update)
