"""Linears and rotary embedding of the decoder."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from server.kernels.lora import Update, updated
from server.model.config import ModelConfig


class Weight(Protocol):
    """A matrix [out, in], however it is held."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def linear(self, x: Tensor, bias: Tensor | None, update: Update | None = None) -> Tensor:
        """x [tokens, in] -> [tokens, out], with what the adapters add."""

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """[out, in], as it is multiplied."""


@dataclass(frozen=True)
class DenseWeight:
    weight: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def linear(self, x: Tensor, bias: Tensor | None, update: Update | None = None) -> Tensor:
        return updated(F.linear(x, self.weight, bias), x, update)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return self.weight.to(dtype)


@dataclass(frozen=True)
class Linear:
    """x [tokens, in] -> [tokens, out]."""

    weight: Weight
    bias: Tensor | None = None

    def __call__(self, x: Tensor, update: Update | None = None) -> Tensor:
        return self.weight.linear(x, self.bias, update)


@dataclass(frozen=True)
class Rotary:
    """cos, sin: [max_context, dim / 2]."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def build(cls, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> "Rotary":
        frequencies, scale = _frequencies(config)
        angles = torch.outer(torch.arange(config.max_context, dtype=torch.float32), frequencies)
        return cls((angles.cos() * scale).to(device, dtype), (angles.sin() * scale).to(device, dtype))


def _frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    """Inverse frequencies [dim / 2] and the factor on cos and sin; scaled kinds as transformers has them."""
    rope: dict[str, Any] = config.source.rope_parameters
    kind = rope.get("rope_type", "default")
    if kind != "default":
        return ROPE_INIT_FUNCTIONS[kind](config.source, torch.device("cpu"))  # type: ignore[no-any-return]
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    return 1.0 / rope["rope_theta"] ** exponents, 1.0
