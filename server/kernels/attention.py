"""Attention over the paged KV cache, for any mix of prefill chunks and decodes, in plain torch.

A cell is one token's place in the cache: block * block_size + offset.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Heads:
    """How a row of qkv is divided: num_heads of q, then num_kv_heads of k and as many of v, each dim wide."""

    num_heads: int
    num_kv_heads: int
    dim: int


@dataclass(frozen=True)
class DecodeGroup:
    """The sequences of a step that bring one token each.

    rows: [n] their tokens' rows in the step, or None if the step has no others.
    cells: [n, context] every cell they see, padded. seen: [n, 1, 1, context] True where not padding.
    """

    rows: Tensor | None
    cells: Tensor
    seen: Tensor


@dataclass(frozen=True)
class Chunk:
    """Rows [start, end) of the step are the last tokens of one sequence, whose cells are `cells` [context].

    seen: [end - start, context] True where a token may look.
    """

    start: int
    end: int
    cells: Tensor
    seen: Tensor


@dataclass(frozen=True)
class AttentionPlan:
    """cells: [tokens] where the step's own keys and values go."""

    cells: Tensor
    decodes: DecodeGroup | None
    chunks: list[Chunk]


@dataclass(frozen=True)
class PagedPlan:
    """The same for the device's kernels: sequence i brings rows [starts[i], starts[i + 1]) of the step.

    starts: [sequences + 1] int32. contexts: [sequences] int32, the tokens it sees with the step's own, which
    are the last of them; 0 is padding: one row that touches no cache and comes out as zeros.
    block_at: [sequences] int32, where its blocks begin in `blocks`, int32 block numbers of all sequences.
    longest: rows of the longest sequence; 1 where none is a chunk, which has several. total_context,
    longest_context: sum and maximum of the chunks' contexts. All three may be more than there is.
    """

    starts: Tensor
    contexts: Tensor
    block_at: Tensor
    blocks: Tensor
    block_size: int
    longest: int
    total_context: int = 0
    longest_context: int = 0

    @cached_property
    def ends(self) -> Tensor:
        """[sequences + 1] int32: the bounds of the chunks' contexts when all stand one after another."""
        is_chunk = self.starts.diff() > 1
        ends = torch.zeros_like(self.starts)
        torch.cumsum(self.contexts * is_chunk, 0, out=ends[1:])
        return ends

    @cached_property
    def cells(self) -> Tensor:
        """[total_context] the context of every chunk, one after another: the same in all layers.

        What total_context has beyond the contexts is a cell that is there.
        """
        every = torch.arange(self.total_context, device=self.contexts.device, dtype=torch.int32)
        sequence = torch.searchsorted(self.ends[1:], every, right=True).clamp(max=len(self.contexts) - 1)
        offset = (every - self.ends[sequence]) * (every < self.ends[-1])
        block = self.blocks[self.block_at[sequence] + offset // self.block_size]
        return block * self.block_size + offset % self.block_size


def supports(heads: Heads) -> bool:
    """Whether the device's kernels can attend with such heads."""
    return heads.dim in (32, 64, 128, 256) and heads.num_heads // heads.num_kv_heads <= 8


def store_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, cells: Tensor) -> None:
    """k, v [tokens, kv_heads, dim] into caches [cells, kv_heads, dim]."""
    k_cache.index_copy_(0, cells, k)
    v_cache.index_copy_(0, cells, v)


def paged_attention(q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: AttentionPlan) -> Tensor:
    """q [tokens, heads, dim] -> [tokens, heads, dim]; query heads share key heads in groups (GQA)."""
    decodes = plan.decodes
    if decodes is not None and decodes.rows is None:
        return _decode(q, k_cache, v_cache, decodes)
    out = torch.empty_like(q)
    if decodes is not None:
        out[decodes.rows] = _decode(q[decodes.rows], k_cache, v_cache, decodes)
    for chunk in plan.chunks:
        out[chunk.start : chunk.end] = _prefill(q[chunk.start : chunk.end], k_cache, v_cache, chunk)
    return out


def _decode(q: Tensor, k_cache: Tensor, v_cache: Tensor, group: DecodeGroup) -> Tensor:
    """The query heads of one key head stand as that head's queries: nothing is repeated in memory."""
    n, heads, dim = q.shape
    kv_heads = k_cache.shape[1]
    k = F.embedding(group.cells, k_cache.flatten(1)).view(n, -1, kv_heads, dim).transpose(1, 2)
    v = F.embedding(group.cells, v_cache.flatten(1)).view(n, -1, kv_heads, dim).transpose(1, 2)
    out = F.scaled_dot_product_attention(q.view(n, kv_heads, -1, dim), k, v, attn_mask=group.seen)
    return out.reshape(n, heads, dim)


def _prefill(q: Tensor, k_cache: Tensor, v_cache: Tensor, chunk: Chunk) -> Tensor:
    k = k_cache[chunk.cells].transpose(0, 1).unsqueeze(0)
    v = v_cache[chunk.cells].transpose(0, 1).unsqueeze(0)
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1).unsqueeze(0), k, v, attn_mask=chunk.seen, enable_gqa=True
    )
    return out.squeeze(0).transpose(0, 1)
