"""Checkpoints that bitsandbytes quantized to 4 bits before they were saved."""

from typing import Protocol

import torch
from torch import Tensor

from server.kernels import bnb, nf4
from server.model.config import UnsupportedModel

STATE = "quant_state.bitsandbytes__nf4"
PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", STATE)


class Tensors(Protocol):
    def __contains__(self, name: str) -> bool: ...

    def __getitem__(self, name: str) -> Tensor: ...


def is_prequantized(checkpoint: Tensors, name: str) -> bool:
    return f"{name}.{STATE}" in checkpoint


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
