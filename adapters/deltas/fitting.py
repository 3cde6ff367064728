"""Updates as pairs of a rank that is served; or, where they are to be compared with those, as they are."""

from __future__ import annotations

from torch import Tensor

from adapters.deltas.context import Context, Result
from adapters.lowrank import fit, fit_dense
from adapters.normal import LinearChange, LowRank


def fitted(pair: LowRank, context: Context) -> Result:
    """The pair itself, or the nearest one of a rank that is served."""
    if context.setting.keeps_whole:
        return Result(LinearChange(pair))
    served, error = fit(pair, context.max_rank)
    return Result(LinearChange(served), error)


def fitted_dense(delta: Tensor, context: Context) -> Result:
    """The nearest pair to a whole matrix [out, in]."""
    if context.setting.keeps_whole:
        return Result(LinearChange(), whole=delta)
    served, error = fit_dense(delta, context.max_rank)
    return Result(LinearChange(served), error)
