"""Decoder layers of known families in a few nodes of the graph, for as long as nothing special is asked."""

from __future__ import annotations

from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from training.fast.block import Attention, FeedForward
from training.fast.elementwise import KERNELS, Kernels
from training.fast.group import Group

# Whose layers are two norms, attention over turned heads and a gated feed-forward part, and nothing else.
FAMILIES = ("llama", "mistral", "qwen2")


def make_layers_fast(causal: Any, kernels: Kernels = KERNELS) -> int:
    """Gives every decoder layer that fits its fast forward; returns how many got it.

    Linears must have been made fast before. A layer that recomputes its activations does so by halves,
    the last layer excepted: its activations are needed at once.
    """
    config = causal.config
    if config.model_type not in FAMILIES or config.hidden_act != "silu" or config.attention_dropout:
        return 0
    layers = list(causal.model.layers)
    found = [layer for layer in layers if _fits(layer)]
    for layer in found:
        # Taken from transformers, some of whose versions would do it around these halves once more.
        layer.recomputes, layer.gradient_checkpointing = layer.gradient_checkpointing, False
        layer.is_last = layer is layers[-1]
        layer.implementation = kernels.implementation
        layer.halves = (
            Attention(layer.input_layernorm, layer.self_attn, kernels),
            FeedForward(layer.post_attention_layernorm, layer.mlp, kernels),
        )
        layer.forward = MethodType(_forward, layer)
    return len(found)


def _forward(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """As transformers' own, causal and without a cache; whatever else is asked goes there."""
    if args or not _is_usual(self, kwargs):
        return _own_forward(self, hidden_states, *args, **kwargs)
    cos, sin = kwargs["position_embeddings"]
    # Both halves of a head have the same angles.
    half = cos.shape[-1] // 2
    angles = cos[..., :half], sin[..., :half]
    recomputes = self.recomputes and not self.is_last
    for block in self.halves:
        hidden_states = block(hidden_states, angles, recomputes)
    return hidden_states


def _own_forward(layer: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    own = partial(type(layer).forward, layer, **kwargs)
    if layer.recomputes and layer.training and torch.is_grad_enabled():
        return checkpoint(own, hidden_states, *args, use_reentrant=False)  # type: ignore[no-any-return]
    return own(hidden_states, *args)  # type: ignore[no-any-return]


def _is_usual(layer: Any, asked: dict[str, Any]) -> bool:
    """Whether this is a pass of a training step that every token of the row before may be seen in."""
    special = asked.keys() - {"position_ids", "position_embeddings"}
    return (
        layer.training
        and torch.is_grad_enabled()
        and layer.self_attn.config._attn_implementation == layer.implementation
        and all(asked[name] is None or asked[name] is False for name in special)
        and all(block.is_plain() for block in layer.halves)
    )


def _fits(layer: Any) -> bool:
    """Whether all that learns in it are pairs of plain linears."""
    attention, mlp = layer.self_attn, layer.mlp
    linears = (
        attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
        mlp.gate_proj, mlp.up_proj, mlp.down_proj,
    )  # fmt: skip
    if not Group.fits(*linears):
        return False
    learns = {weight for weight in layer.parameters() if weight.requires_grad}
    return bool(learns) and learns == set(Group(*linears).weights())
