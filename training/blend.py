"""Several adapters' updates as one, where that is no plain sum: TIES and DARE, by PEFT's own functions.

They choose entries of the updates themselves. Applied to the factors A and B they would choose among numbers
that mean nothing alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import torch
from peft.utils.merge_utils import dare_linear, dare_ties, ties
from torch import Tensor

from adapters.merge.changes import Changes, product
from adapters.normal import AdapterWeights, LinearChange, LowRank

Pairs = Mapping[str, LowRank]
Blend = Callable[[list[Tensor], Tensor, float], Tensor]
BLENDS: dict[str, Blend] = {"ties": ties, "dare-linear": dare_linear, "dare-ties": dare_ties}


def blend(
    adapters: Sequence[Pairs], weights: Sequence[float], how: str, density: float, seed: int
) -> Changes:
    """The updates of each linear, made when asked for: memory of one linear's.

    `density` is the share of entries that are kept. DARE draws them anew for each linear, by `seed` and its
    name, so that the result does not depend on the order.
    """
    names = dict.fromkeys(name for adapter in adapters for name in adapter)

    def delta(name: str) -> Tensor | None:
        members = [
            (adapter[name], w) for adapter, w in zip(adapters, weights, strict=True) if name in adapter
        ]
        updates = [made for pair, _ in members if (made := product(pair)) is not None]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed ^ zlib.crc32(name.encode()))
            return BLENDS[how](updates, torch.tensor([w for _, w in members]), density)

    return Changes(AdapterWeights(dict.fromkeys(names, LinearChange())), delta)
