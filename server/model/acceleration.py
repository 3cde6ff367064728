"""A decoder on a CUDA device, moved onto this project's kernels."""

from dataclasses import replace

import torch

from server.kernels.attention import supports
from server.kernels.int8 import Int8Weight
from server.kernels.nf4 import Nf4Weight
from server.model.decoder import Decoder, Layer
from server.model.layers import Linear
from server.model.operations import kernels


def can_accelerate(decoder: Decoder) -> bool:
    """bfloat16 on a device of compute capability 8.0 or newer, and heads that the kernels know."""
    like, config = decoder.embedding, decoder.config
    if not like.is_cuda or like.dtype != torch.bfloat16:
        return False
    if torch.cuda.get_device_capability(like.device) < (8, 0) or not _has_compiler():
        return False
    return supports(decoder.heads) and config.hidden_size % 8 == 0 and config.intermediate_size % 8 == 0


def accelerate(decoder: Decoder) -> Decoder:
    """The same decoder; its NF4 weights are laid out anew, each in turn, and the old ones let go."""
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
    from server.kernels.int8_fused import FusedInt8Weight
    from server.kernels.nf4_tiled import TiledNf4Weight

    weight = linear.weight
    if isinstance(weight, Nf4Weight) and TiledNf4Weight.fits(weight, pairs):
        return replace(linear, weight=TiledNf4Weight.of(weight, pairs))
    if isinstance(weight, Int8Weight):
        return replace(linear, weight=FusedInt8Weight.of(weight))
    return linear


def _has_compiler() -> bool:
    try:
        import cuda.bindings.nvrtc  # noqa: F401
        import triton  # noqa: F401
    except ImportError:
        return False
    return True
