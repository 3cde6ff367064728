"""What the decoder does between its linears: in plain torch, or in a kernel each."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from server.kernels.attention import AttentionPlan, Heads, paged_attention, store_kv
from server.kernels.fused import add_rms_norm, rms_norm, rotate, silu_mul
from server.kernels.lora import Update
from server.model.layers import Linear

Pair = tuple[Tensor, Tensor]
# The weights of q's and k's norm, each [dim], and their epsilon.
Norms = tuple[Tensor, Tensor, float]


@dataclass(frozen=True)
class Operations:
    """embed(token_ids, previous, table) -> [tokens, hidden]; a token id -(r + 1) stands for previous[r].
    angles(rotary, positions): what `attend` takes as `angles`, once a step.
    attend(qkv, heads, norms, angles, positions, k_cache, v_cache, plan) -> [tokens, heads * dim].
    gated(gate_up, x, update): x [tokens, hidden] -> silu(gate) * up [tokens, ffn].
    add_rms_norm and silu_mul are shaped as in server/kernels/fused.py.
    """

    embed: Callable[[Tensor, Tensor | None, Tensor], Tensor]
    angles: Callable[[Pair, Tensor], Pair]
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    gated: Callable[[Linear, Tensor, Update | None], Tensor]
    silu_mul: Callable[[Tensor], Tensor]
    attend: Callable[..., Tensor]


def embed(token_ids: Tensor, previous: Tensor | None, table: Tensor) -> Tensor:
    return F.embedding(resolve(token_ids, previous), table)


def resolve(token_ids: Tensor, previous: Tensor | None) -> Tensor:
    """token_ids [tokens] with previous[r] in the place of -(r + 1)."""
    if previous is None:
        return token_ids
    known = token_ids >= 0
    # A token that could not be sampled is -1; whatever stands for it, its sequence has failed.
    found = previous[torch.where(known, 0, -token_ids - 1)].clamp(min=0)
    return torch.where(known, token_ids, found)


def angles(rotary: Pair, positions: Tensor) -> Pair:
    """Tables [max_context, dim / 2] of cos and sin -> [tokens, 1, dim / 2]."""
    cos, sin = (F.embedding(positions, table).unsqueeze(1) for table in rotary)
    return cos, sin


def attend(
    qkv: Tensor,
    heads: Heads,
    norms: Norms | None,
    angles: Pair,
    positions: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    plan: AttentionPlan,
) -> Tensor:
    """qkv [tokens, (heads + 2 kv heads) * dim]; its keys and values go to the caches of one layer."""
    num_q, num_kv = heads.num_heads, heads.num_kv_heads
    qk, v = qkv.view(qkv.shape[0], -1, heads.dim).split((num_q + num_kv, num_kv), dim=1)
    if norms is None:
        q, k = rotate(qk, *angles).split((num_q, num_kv), dim=1)
    else:
        q_norm, k_norm, eps = norms
        q, k = qk.split((num_q, num_kv), dim=1)
        q, k = rotate(rms_norm(q, q_norm, eps), *angles), rotate(rms_norm(k, k_norm, eps), *angles)
    store_kv(k, v, k_cache, v_cache, plan.cells)
    return paged_attention(q, k_cache, v_cache, plan).flatten(1)


def gated(gate_up: Linear, x: Tensor, update: Update | None) -> Tensor:
    return silu_mul(gate_up(x, update))


TORCH = Operations(embed, angles, add_rms_norm, gated, silu_mul, attend)


def kernels() -> Operations:
    """Needs a CUDA device; steps come with a PagedPlan. Attention finds its angles by position itself."""
    from server.kernels import attention_cuda, fused_cuda
    from server.kernels.nf4_tiled import TiledNf4Weight

    def gated(gate_up: Linear, x: Tensor, update: Update | None) -> Tensor:
        if isinstance(gate_up.weight, TiledNf4Weight):
            return gate_up.weight.gated(x, gate_up.bias, update)
        return fused_cuda.silu_mul(gate_up(x, update))

    return Operations(
        embed=fused_cuda.embed,
        angles=lambda rotary, positions: rotary,
        add_rms_norm=fused_cuda.add_rms_norm,
        gated=gated,
        silu_mul=fused_cuda.silu_mul,
        attend=attention_cuda.attend,
    )
