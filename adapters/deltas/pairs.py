"""LoRA, AdaLoRA and the vectors: what needs a multiplication at most."""

from __future__ import annotations

import torch
from torch import Tensor

from adapters.deltas.context import Context, Parts, Result
from adapters.kinds.vectors import is_feedforward
from adapters.normal import LinearChange, LowRank
from adapters.shapes import EMBEDDING


def scaled(a: Tensor, b: Tensor, context: Context) -> LowRank:
    """Multiplied in float32 and rounded once: by `cast`, or by torch where b has the dtype already."""
    scale = context.target.scale
    return LowRank(a, b * scale if b.dtype == context.setting.dtype else b.float() * scale)


def lora(parts: Parts, context: Context) -> Result:
    names = ("lora_A.weight", "lora_B.weight")
    if context.name == EMBEDDING:
        names = ("lora_embedding_A", "lora_embedding_B")
    a, b = (parts[name] for name in names)
    pair = scaled(a, b, context)
    bias = parts.get("lora_B.bias")
    magnitude = parts.get("lora_magnitude_vector")
    gain = None if magnitude is None else dora_gain(magnitude, pair, context)
    return Result(LinearChange(pair, gain, None if bias is None else bias.float() * context.target.scale))


def dora_gain(magnitude: Tensor, pair: LowRank, context: Context) -> Tensor:
    """[out]: m / ||W + B A||, over each row; an embedding's rows are its hidden dimensions."""
    weight = context.weight()
    whole = (weight.T if context.name == EMBEDDING else weight) + pair.b @ pair.a.float()
    norm: Tensor = torch.linalg.vector_norm(whole, dim=1)
    return magnitude.float() / norm


def adalora(parts: Parts, context: Context) -> Result:
    a = parts["lora_A"].float() * parts["lora_E"].float()
    return Result(LinearChange(scaled(a, parts["lora_B"], context)))


def ia3(parts: Parts, context: Context) -> Result:
    vector = parts["ia3_l"].flatten()
    if is_feedforward(context.name, context.options):
        return Result(LinearChange(input_gain=vector))
    return Result(LinearChange(gain=vector))


def beft(parts: Parts, context: Context) -> Result:
    return Result(LinearChange(bias=parts["beft_bias"].flatten()))
