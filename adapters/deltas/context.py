"""What a kind's formula is given besides its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from adapters.normal import LinearChange
from adapters.shapes import BaseShapes, Target

Parts = Mapping[str, Tensor]


@dataclass(frozen=True)
class Base:
    """The base as the server serves it.

    `weight`: a linear's, the embedding's or the head's name -> [out, in], dequantized. `bias`: a linear's
    name -> [out]; asked for those in `shapes.biases` only.
    """

    shapes: BaseShapes
    weight: Callable[[str], Tensor]
    bias: Callable[[str], Tensor]


@dataclass(frozen=True)
class Context:
    """One targeted place: `shared` are tensors of all places, `base` is None where none is needed.

    `widest` is the largest (out_features, in_features) of all places.
    """

    name: str
    target: Target
    size: tuple[int, int]
    widest: tuple[int, int]
    options: Mapping[str, Any]
    shared: Parts
    max_rank: int
    base: Base | None

    def weight(self) -> Tensor:
        """[out, in] float32."""
        assert self.base is not None, "a kind that needs the base is prepared with it"
        return self.base.weight(self.name).float()


@dataclass(frozen=True)
class Result:
    """A place's change, and how far it is from the exact one: relative, in the Frobenius norm."""

    change: LinearChange
    error: float = 0.0


Formula = Callable[[Parts, Context], Result]
