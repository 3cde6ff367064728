"""How merged weights are stored, and what of an adapter's change survives that.

    recovered = <stored - W, M - W> / |M - W|^2        1: all of it, 0: none
    residual  = |stored - M| / |M - W|                 rounding noise against the change

W is the base's weight as trained, M the exact merged one. Noise without a direction costs little; what counts
is whether the change itself is still there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.merge import bnb

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
QUANTIZED = ("int8", "nf4")


@dataclass(frozen=True)
class Stored:
    """One weight's tensors in the checkpoint, the float32 that they stand for, and its codes, if any."""

    tensors: dict[str, Tensor]
    values: Tensor
    codes: Tensor | None = None


Encode = Callable[[str, Tensor], Stored]


def encoder(target: str) -> Encode:
    """For the weights of the layers' linears; all other tensors are stored by `dense`."""
    if target in DTYPES:
        return lambda name, weight: dense(name, weight, target)
    return {"nf4": _nf4, "int8": _int8}[target]


def dense(name: str, weight: Tensor, target: str) -> Stored:
    """Cast once, from float32; what stands beside quantized weights is bfloat16."""
    stored = weight.to(DTYPES.get(target, torch.bfloat16))
    return Stored({name: stored}, stored.float())


def _nf4(name: str, weight: Tensor) -> Stored:
    bnb.require_blocks(name, weight)
    codes, state = bnb.nf4(weight)
    # Two codes a byte: parted, so that each counts by itself.
    each = torch.stack([codes >> 4, codes & 15])
    return Stored(bnb.saved_nf4(name, codes, state), bnb.nf4_values(codes, state), each)


def _int8(name: str, weight: Tensor) -> Stored:
    codes, absmax = bnb.int8(weight)
    return Stored(bnb.saved_int8(name, codes, absmax), bnb.int8_values(codes, absmax), codes)


@dataclass(frozen=True)
class Survival:
    """Of one linear's change. `unchanged` is the share of codes that are the base's own; None without codes.

    `size` is |M - W| / |W|.
    """

    name: str
    size: float
    recovered: float
    residual: float
    unchanged: float | None


def survival(name: str, base: Tensor, merged: Tensor, stored: Stored, encode: Encode) -> Survival | None:
    """base, merged: W, M [out, in] float32. None where nothing was changed."""
    change = merged - base
    size = float(change.norm())
    if size == 0:
        return None
    kept, lost = stored.values - base, stored.values - merged
    unchanged = None
    if stored.codes is not None:
        before = encode(name, base).codes
        assert before is not None, "an encoding has codes for every weight or for none"
        unchanged = float((before == stored.codes).float().mean())
    return Survival(
        name=name,
        size=size / max(float(base.norm()), 1e-30),
        recovered=float((kept * change).sum()) / size**2,
        residual=float(lost.norm()) / size,
        unchanged=unchanged,
    )


def mean_unchanged(parts: Iterable[Survival]) -> float | None:
    """The mean share of unchanged codes over the changed linears."""
    shares = [part.unchanged for part in parts if part.unchanged is not None]
    return sum(shares) / len(shares) if shares else None


def mean_recovered(parts: Iterable[Survival]) -> float:
    """The mean recovered share over the changed linears."""
    shares = [part.recovered for part in parts]
    return sum(shares) / len(shares) if shares else 1.0
