"""Adapters that change more than linears: embedding, norms, head. Rare and large, so plain torch, row by row.

A step that holds such an adapter's tokens computes them as if it had none, and then the rows of each such
adapter anew.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.normal import AdapterWeights, EmbeddingChange, HeadChange, TokenRows
from server.kernels.attention import Heads
from server.kernels.fused import rms_norm
from server.model.config import FIRST_VIRTUAL
from server.model.operations import Norms, Operations, resolve

# Logits that no draw ever takes; numbers, because rows with others are failures. No logit comes near.
UNSAYABLE = {torch.float32: -1e30, torch.bfloat16: -1e30, torch.float16: -6e4}


@dataclass(frozen=True)
class WholeRows:
    """Rows of one adapter: [start, end) of the step, [first, last) of its sampled ones."""

    start: int
    end: int
    first: int
    last: int
    weights: AdapterWeights

    @property
    def tokens(self) -> slice:
        return slice(self.start, self.end)

    @property
    def sampled(self) -> slice:
        return slice(self.first, self.last)


@dataclass(frozen=True)
class WholeStep:
    """vocab_size: columns of the logits, enough for every token that any of the adapters knows."""

    members: list[WholeRows]
    vocab_size: int

    def embed(self, operations: Operations, ids: Tensor, previous: Tensor | None, table: Tensor) -> Tensor:
        """As Operations.embed; ids may be virtual, or tokens that the base does not know."""
        ids = resolve(ids, previous)
        x = operations.embed(ids.clamp(max=table.shape[0] - 1), None, table)
        for member in self.members:
            rows = member.tokens
            x[rows] = _embedded(x[rows], ids[rows].long(), member.weights)
        return x

    def norm(self, normed: Tensor, residual: Tensor, name: str, eps: float, sampled: bool = False) -> Tensor:
        """normed [rows, hidden] of residual, with each adapter's own norm of that name; in place."""
        for member in self.members:
            weight = member.weights.norms.get(name)
            if weight is not None:
                rows = member.sampled if sampled else member.tokens
                normed[rows] = rms_norm(residual[rows], weight, eps)
        return normed

    def norm_heads(self, qkv: Tensor, heads: Heads, norms: Norms, names: tuple[str, str]) -> Norms | None:
        """Applies q's and k's norms to qkv in place where an adapter has its own; what is left to apply."""
        if not any(name in member.weights.norms for member in self.members for name in names):
            return norms
        *weights, eps = norms
        each = qkv.view(qkv.shape[0], -1, heads.dim)
        bounds = ((0, heads.num_heads), (heads.num_heads, heads.num_heads + heads.num_kv_heads))
        for name, weight, (begin, end) in zip(names, weights, bounds, strict=True):
            values = each[:, begin:end]
            values.copy_(self.norm(rms_norm(values, weight, eps), values.clone(), name, eps))
        return None

    def head(self, logits: Tensor, x: Tensor) -> Tensor:
        """logits [sampled, vocab] of x [sampled, hidden]; nobody says what is no token of their adapter."""
        logits = F.pad(logits, (0, self.vocab_size - logits.shape[1]), value=UNSAYABLE[logits.dtype])
        for member in self.members:
            if member.weights.head is not None:
                _change_head(logits[member.sampled], x[member.sampled], member.weights.head)
        return logits


def _embedded(x: Tensor, ids: Tensor, weights: AdapterWeights) -> Tensor:
    """x [rows, hidden], the base's, as the adapter has them; ids [rows] int64."""
    if weights.embedding is not None:
        x = _change_embedding(x, ids, weights.embedding)
    if weights.prefix is not None and weights.prefix.embeddings is not None:
        place = (ids - FIRST_VIRTUAL).clamp(0, weights.prefix.embeddings.shape[0] - 1)
        virtual = F.embedding(place, weights.prefix.embeddings)
        x = torch.where((ids >= FIRST_VIRTUAL).unsqueeze(1), virtual, x)
    return x


def _change_embedding(x: Tensor, ids: Tensor, change: EmbeddingChange) -> Tensor:
    if change.full is not None:
        x = F.embedding(ids.clamp(max=change.full.shape[0] - 1), change.full)
    if change.low_rank is not None:
        a = change.low_rank.a.T
        x = x + F.embedding(ids.clamp(max=a.shape[0] - 1), a) @ change.low_rank.b.T
    if change.rows is not None:
        x = _replaced(x, ids, change.rows)
    return x


def _replaced(x: Tensor, ids: Tensor, rows: TokenRows) -> Tensor:
    place = torch.searchsorted(rows.ids, ids).clamp(max=rows.ids.shape[0] - 1)
    return torch.where((rows.ids[place] == ids).unsqueeze(1), rows.rows[place], x)


def _change_head(logits: Tensor, x: Tensor, change: HeadChange) -> None:
    """logits [rows, columns] in place."""
    if change.full is not None:
        logits[:, : change.full.shape[0]] = F.linear(x, change.full)
    if change.low_rank is not None:
        a, b = change.low_rank.a, change.low_rank.b
        logits[:, : b.shape[0]] += F.linear(F.linear(x, a), b)
    if change.rows is not None:
        logits[:, change.rows.ids] = F.linear(x, change.rows.rows)
    if change.bias is not None:
        logits[:, : change.bias.shape[0]] += change.bias
