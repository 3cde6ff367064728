"""Low-rank algebra: sums of pairs, the nearest pair of a lower rank, and how far off it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adapters.normal import LowRank

# What float32 leaves of a singular value that is zero.
_NOISE = 1e-6
# Columns beyond the wanted rank, and passes over the matrix, of the search for its range.
_SPARE, _PASSES = 16, 3


def stack(pairs: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """The weighted sum as one pair, exactly: rank is the sum of the ranks."""
    b = [pair.b * weight for pair, weight in zip(pairs, weights, strict=True)]
    return LowRank(torch.cat([pair.a for pair in pairs]), torch.cat(b, dim=1))


def spectrum(pair: LowRank) -> tuple[Tensor, Tensor, Tensor]:
    """u [out, k], s [k] falling, v [k, in] with B A = u diag(s) v, by QR of both and a small SVD.

    In float64. O((out + in) rank^2): the product itself is never made.
    """
    qb, rb = torch.linalg.qr(pair.b.double())
    qa, ra = torch.linalg.qr(pair.a.double().T)
    u, s, v = torch.linalg.svd(rb @ ra.T, full_matrices=False)
    return qb @ u, s, v @ qa.T


def dense_spectrum(delta: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same for a whole matrix; only the leading `rank` and a few more where it is large.

    Large ones by a randomized range finder whose draw is fixed: the same matrix gives the same pair.
    """
    width = rank + _SPARE
    if min(delta.shape) <= 2 * width:
        u, s, v = torch.linalg.svd(delta.double(), full_matrices=False)
        return u, s, v
    generator = torch.Generator().manual_seed(0)
    found = delta @ torch.randn(delta.shape[1], width, generator=generator)
    for _ in range(_PASSES):
        found = torch.linalg.qr(delta @ (delta.T @ torch.linalg.qr(found).Q)).Q
    basis = torch.linalg.qr(found).Q
    u, s, v = torch.linalg.svd((basis.T @ delta).double(), full_matrices=False)
    return basis.double() @ u, s, v


def cut(u: Tensor, s: Tensor, v: Tensor, rank: int) -> LowRank:
    """The leading `rank` directions as a float32 pair, its size shared by both factors."""
    root = s[:rank].sqrt()
    return LowRank((root[:, None] * v[:rank]).float(), (u[:, :rank] * root).float())


def numerical_rank(s: Tensor, most: int) -> int:
    """How many singular values are more than noise: at least 1, at most `most`."""
    if s.numel() == 0:
        return 0
    return max(1, min(int((s > s[0] * _NOISE).sum()), most))


def fit(pair: LowRank, max_rank: int) -> tuple[LowRank, float]:
    """The pair itself if its rank is served, else the nearest of `max_rank`, and the relative error."""
    if pair.rank <= max_rank:
        return pair, 0.0
    if pair.rank >= min(pair.b.shape[0], pair.a.shape[1]):
        return fit_dense(pair.b @ pair.a, max_rank)
    u, s, v = spectrum(pair)
    rank = numerical_rank(s, max_rank)
    return cut(u, s, v, rank), tail(s, rank)


def fit_dense(delta: Tensor, max_rank: int) -> tuple[LowRank, float]:
    """The nearest pair of at most `max_rank` to a whole matrix, and the relative error, measured on both."""
    u, s, v = dense_spectrum(delta, max_rank)
    pair = cut(u, s, v, numerical_rank(s, max_rank))
    size = float(delta.norm())
    return pair, float((delta - pair.b @ pair.a).norm()) / size if size else 0.0


def tail(s: Tensor, rank: int) -> float:
    """||what was cut|| / ||all||, in the Frobenius norm."""
    size = float(s.square().sum())
    return (float(s[rank:].square().sum()) / size) ** 0.5 if size else 0.0
