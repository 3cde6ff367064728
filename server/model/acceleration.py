"""A decoder on a CUDA device, moved onto this project's kernels."""

import importlib
from dataclasses import replace

import torch

from server.kernels.attention import supports
from server.kernels.int8 import Int8Weight
from server.kernels.nf4 import Nf4Weight
from server.model.decoder import Decoder, Layer
from server.model.layers import Linear
from server.model.operations import kernels


def why_not(decoder: Decoder) -> str:
    """What keeps the decoder from running on the kernels; "" if nothing does."""
    like, config = decoder.embedding, decoder.config
    if not like.is_cuda:
        return "they are for CUDA devices"
    if like.dtype != torch.bfloat16:
        return f"they compute in bfloat16, not in {str(like.dtype).removeprefix('torch.')}"
    if torch.cuda.get_device_capability(like.device) < (8, 0):
        return "the device is older than compute capability 8.0"
    if not supports(decoder.heads):
        return f"they know no {decoder.heads}"
    if config.hidden_size % 8 or config.intermediate_size % 8:
        return "the model's widths are no multiples of 8"
    return _missing_package()


def accelerate(decoder: Decoder) -> Decoder:
    """The same decoder; its quantized weights are laid out anew, each in turn, and the old ones let go."""
    for index in range(len(decoder.layers)):
        decoder.layers[index] = _accelerate(decoder.layers[index])
    return replace(decoder, operations=kernels())


def _accelerate(layer: Layer) -> Layer:
    return replace(
        layer,
        qkv=_fused(layer.qkv),
        o=_fused(layer.o),
        gate_up=_fused(layer.gate_up, pairs=True),
        down=_fused(layer.down),
    )


def _fused(linear: Linear, pairs: bool = False) -> Linear:
    from server.kernels.tiled import TiledWeight

    weight = linear.weight
    if isinstance(weight, Nf4Weight | Int8Weight) and TiledWeight.fits(weight, pairs):
        return replace(linear, weight=TiledWeight.of(weight, pairs))
    return linear


def _missing_package() -> str:
    for name in ("cuda.bindings.nvrtc", "triton"):
        try:
            importlib.import_module(name)
        except ImportError:
            return f"the package {name.partition('.nvrtc')[0]} is missing"
    return ""
