"""How far the logits of what is served are from those of the adapter itself: measured, over fixed tokens.

Both stand side by side, and every linear of the base is asked for once:

    x [2, tokens, hidden]   0: with the updates as they are   1: with the pairs that are served
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.deltas.assemble import Updates
from adapters.deltas.context import Base, Result
from adapters.normal import LowRank
from adapters.shapes import HEAD
from server.kernels.fused import rms_norm, rotate
from server.model.decoder import Decoder, Layer

NUM_TOKENS = 32
MAX_SECONDS = 300.0

Pairs = Callable[[str], LowRank | None]


class Probe:
    """In float32 on the CPU, on whatever thread asks; the base's weights come one at a time."""

    def __init__(self, decoder: Decoder, base: Base, max_seconds: float = MAX_SECONDS) -> None:
        self._decoder = decoder
        self._base = base
        self._max_seconds = max_seconds
        numbers = torch.Generator().manual_seed(0)
        self._tokens = torch.randint(decoder.config.vocab_size, (NUM_TOKENS,), generator=numbers)

    @torch.inference_mode()
    def error(self, updates: Updates, pairs: Pairs) -> float | None:
        """||exact - served|| / ||exact|| of the logits of all tokens; None if it took too long."""
        ends_at = time.monotonic() + self._max_seconds
        table = self._decoder.embedding[self._tokens.to(self._decoder.embedding.device)]
        x = _here(table).expand(2, -1, -1)
        for layer in self._decoder.layers:
            if time.monotonic() > ends_at:
                return None
            x = self._layer(layer, x, updates, pairs)
        x = rms_norm(x, _here(self._decoder.norm), self._decoder.config.norm_eps)
        exact, served = x @ self._base.weight(HEAD).float().T
        return float((exact - served).norm() / exact.norm())

    def _layer(self, layer: Layer, x: Tensor, updates: Updates, pairs: Pairs) -> Tensor:
        def linear(name: str, x: Tensor) -> Tensor:
            return self._linear(layer.name(name), x, updates, pairs)

        eps = self._decoder.config.norm_eps
        h = rms_norm(x, _here(layer.attention_norm), eps)
        q, k, v = (linear(f"self_attn.{part}_proj", h) for part in "qkv")
        x = x + linear("self_attn.o_proj", self._attend(layer, q, k, v))
        h = rms_norm(x, _here(layer.mlp_norm), eps)
        gated = F.silu(linear("mlp.gate_proj", h)) * linear("mlp.up_proj", h)
        return x + linear("mlp.down_proj", gated)

    def _linear(self, name: str, x: Tensor, updates: Updates, pairs: Pairs) -> Tensor:
        """[2, tokens, in] -> [2, tokens, out]."""
        y = x @ self._base.weight(name).float().T
        if name in self._base.shapes.biases:
            y = y + self._base.bias(name).float()
        if name in updates.targets:
            y[0] += _apply(updates(name), x[0])
        if (pair := pairs(name)) is not None:
            y[1] += _through(pair, x[1])
        return y

    def _attend(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Each [2, tokens, its heads * dim] -> [2, tokens, heads * dim], causal."""
        dim, eps = self._decoder.config.head_dim, self._decoder.config.norm_eps
        q, k, v = (each.unflatten(-1, (-1, dim)) for each in (q, k, v))
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = rms_norm(q, _here(layer.q_norm), eps), rms_norm(k, _here(layer.k_norm), eps)
        rotary = self._decoder.rotary
        cos, sin = (_here(each[:NUM_TOKENS]).unsqueeze(1) for each in (rotary.cos, rotary.sin))
        q, k, v = (each.transpose(1, 2) for each in (rotate(q, cos, sin), rotate(k, cos, sin), v))
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return found.transpose(1, 2).flatten(2)


def _apply(update: Result, x: Tensor) -> Tensor:
    if update.whole is not None:
        return x @ update.whole.T
    pair = update.change.low_rank
    return x.new_zeros(()) if pair is None else _through(pair, x)


def _through(pair: LowRank, x: Tensor) -> Tensor:
    return (x @ pair.a.float().T) @ pair.b.float().T


def _here(tensor: Tensor) -> Tensor:
    return tensor.float().cpu()
