"""Checkpoints that bitsandbytes quantized, to 4 or 8 bits, before they were saved."""

from typing import Protocol

import torch
from torch import Tensor

from server.kernels import bnb, int8, nf4
from server.model.config import UnsupportedModel

STATE = "quant_state.bitsandbytes__nf4"
# bitsandbytes' number for codes that stand row by row.
_ROWS = 0
PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", STATE)


class Tensors(Protocol):
    def __contains__(self, name: str) -> bool: ...

    def __getitem__(self, name: str) -> Tensor: ...


def is_prequantized(checkpoint: Tensors, name: str) -> bool:
    return f"{name}.{STATE}" in checkpoint or _absmax_name(name) in checkpoint


def read_int8(checkpoint: Tensors, name: str, device: torch.device) -> int8.Int8Weight:
    """The weight `name` as saved, row by row."""
    layout = f"{name.removesuffix('.weight')}.weight_format"
    if layout in checkpoint and int(checkpoint[layout]) != _ROWS:
        raise UnsupportedModel(f"{name} is quantized in tiles of an older bitsandbytes; save it anew")
    absmax = checkpoint[_absmax_name(name)].float().view(-1)
    return int8.Int8Weight(checkpoint[name].to(device), absmax.to(device))


def _absmax_name(name: str) -> str:
    return f"{name.removesuffix('.weight')}.SCB"


def read_nf4(checkpoint: Tensors, name: str, device: torch.device) -> nf4.Nf4Weight:
    """The weight `name` as saved, byte for byte; nested scales are resolved to float32."""
    held = {part: checkpoint[f"{name}.{part}"] for part in PARTS if f"{name}.{part}" in checkpoint}
    state = bnb.functional().QuantState.from_dict(held, device=device)
    rows, width = state.shape
    if state.blocksize != nf4.BLOCK or width % nf4.BLOCK:
        raise UnsupportedModel(
            f"{name} is quantized in blocks of {state.blocksize}; only {nf4.BLOCK} along whole rows is read"
        )
    return nf4.from_state(checkpoint[name].to(device), state, rows)
