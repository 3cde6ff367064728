"""Updates that are made of the base's own weight."""

from __future__ import annotations

import torch
from torch import Tensor

from adapters.deltas.context import Context, Parts, Result
from adapters.deltas.fitting import fitted, fitted_dense
from adapters.normal import LowRank


def hira(parts: Parts, context: Context) -> Result:
    """W * (B A), entry by entry."""
    delta = context.weight() * (parts["hira_B"].float() @ parts["hira_A"].float())
    return fitted_dense(delta, context)


def hra(parts: Parts, context: Context) -> Result:
    """W (H - I) with H = (I - 2 u_1 u_1^T) (I - 2 u_2 u_2^T) ..., which is -2 sum_k (W H_k u_k) u_k^T."""
    vectors = parts["hra_u"].float()
    if context.options["apply_GS"]:
        u = _orthonormal(vectors)
        reached = u
    else:
        u = vectors / vectors.norm(dim=0)
        reached = _reflected(u)
    return fitted(LowRank(u.T, -2 * context.weight() @ reached), context)


def _reflected(u: Tensor) -> Tensor:
    """[in, r]: column k is u_k after all reflections before it."""
    columns: list[Tensor] = []
    for k in range(u.shape[1]):
        column = u[:, k].clone()
        for j, before in enumerate(columns):
            column -= 2 * before * (u[:, j] @ u[:, k])
        columns.append(column)
    return torch.stack(columns, dim=1)


def _orthonormal(u: Tensor) -> Tensor:
    """Gram-Schmidt in the order of the columns, as PEFT does it."""
    columns: list[Tensor] = []
    for k in range(u.shape[1]):
        column = u[:, k].clone()
        for before in columns:
            column -= (before @ column) * before
        columns.append(column / column.norm())
    return torch.stack(columns, dim=1)
