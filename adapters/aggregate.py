"""Weighted sums of adapters' low-rank pairs, exact by stacking, then compressed with a known error.

Averaging A and B apart, as in federated averaging, is not the average of the updates; the stack is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adapters.lowrank import cut, numerical_rank, spectrum, stack, tail
from adapters.normal import LowRank

Pairs = Mapping[str, LowRank]


@dataclass(frozen=True)
class Aggregate:
    """`errors`: for each linear ||cut away|| / ||sum||, in the Frobenius norm."""

    pairs: dict[str, LowRank]
    errors: dict[str, float]

    @property
    def error(self) -> float:
        """The largest of them."""
        return max(self.errors.values(), default=0.0)


def aggregate(
    adapters: Sequence[Pairs],
    weights: Sequence[float],
    *,
    rank: int | None = None,
    energy: float | None = None,
) -> Aggregate:
    """sum_i weights_i B_i A_i for every linear that any of the adapters changes.

    Without `rank` and `energy` the sum is exact, of at most the ranks' sum. `rank` is the highest that is
    left, `energy` the least share of each squared Frobenius norm; with both, `rank` wins. Raises ValueError
    for weights that are not finite or do not match, and for shapes that differ.
    """
    _check(adapters, weights, rank, energy)
    pairs, errors = {}, {}
    for name in dict.fromkeys(name for adapter in adapters for name in adapter):
        members = [
            (adapter[name], w) for adapter, w in zip(adapters, weights, strict=True) if name in adapter
        ]
        if len({(pair.b.shape[0], pair.a.shape[1]) for pair, _ in members}) > 1:
            raise ValueError(f"{name} has other shapes in one adapter than in another")
        whole = stack([pair for pair, _ in members], [weight for _, weight in members])
        pairs[name], errors[name] = _compress(whole, rank, energy)
    return Aggregate(pairs, errors)


def _compress(pair: LowRank, rank: int | None, energy: float | None) -> tuple[LowRank, float]:
    if rank is None and energy is None:
        return pair, 0.0
    u, s, v = spectrum(pair)
    wanted = numerical_rank(s, len(s))
    if energy is not None:
        shares = s.square().cumsum(0) / s.square().sum().clamp(min=1e-300)
        wanted = min(wanted, int((shares < energy).sum()) + 1)
    kept = min(wanted, wanted if rank is None else rank)
    return cut(u, s, v, kept), tail(s, kept)


def _check(
    adapters: Sequence[Pairs], weights: Sequence[float], rank: int | None, energy: float | None
) -> None:
    if len(adapters) != len(weights) or not adapters:
        raise ValueError("give one weight for each adapter, and at least one adapter")
    if not all(math.isfinite(weight) for weight in weights):
        raise ValueError("weights must be finite")
    if rank is not None and rank < 1:
        raise ValueError("rank must be at least 1")
    if energy is not None and not 0 < energy <= 1:
        raise ValueError("energy must be above 0 and at most 1")
