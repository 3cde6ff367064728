"""What a kind's formula is given besides its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapters.normal import LinearChange
from adapters.peft_config import AdapterConfig
from adapters.plan import Plan
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
class Setting:
    """An adapter without its tensors, and what it is turned into its normal form for.

    `base` is needed unless the adapter is direct; `dtype` is what it is cast to at last. `keeps_whole`:
    updates are wanted as they are, and not as pairs that are served.
    """

    config: AdapterConfig
    plan: Plan
    shapes: BaseShapes
    max_rank: int
    base: Base | None = None
    dtype: torch.dtype = torch.float32
    keeps_whole: bool = False

    def weight(self, name: str) -> Tensor:
        """[out, in] of the base, float32."""
        assert self.base is not None, "what needs the base is prepared with it"
        return self.base.weight(name).float()

    def bias(self, name: str) -> Tensor:
        """[out] of the base, float32."""
        assert self.base is not None, "what needs the base is prepared with it"
        return self.base.bias(name).float()


@dataclass(frozen=True)
class Context:
    """One targeted place: its (out_features, in_features), and the tensors that belong to no place."""

    setting: Setting
    name: str
    target: Target
    size: tuple[int, int]
    shared: Parts

    @property
    def options(self) -> Mapping[str, Any]:
        return self.setting.config.options

    @property
    def max_rank(self) -> int:
        return self.setting.max_rank

    def weight(self) -> Tensor:
        """[out, in] of the base, float32."""
        return self.setting.weight(self.name)


@dataclass(frozen=True)
class Result:
    """A place's change, and how far it is from the exact one: relative, in the Frobenius norm.

    whole: [out, in] instead of a pair, where that was asked for.
    """

    change: LinearChange
    error: float = 0.0
    whole: Tensor | None = None


Formula = Callable[[Parts, Context], Result]
