"""bitsandbytes' arithmetic on plain tensors: its codes, and how they stand in a checkpoint.

Only its functions are used. Its modules repack their weights in place on some CPUs at the first forward
pass, and what is merged from them afterwards is garbage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adapters.merge.errors import MergeRefused

BLOCK = 64
_STATE = "quant_state.bitsandbytes__nf4"
_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", _STATE, "SCB", "weight_format")


def functional() -> Any:
    """Its import takes seconds, so it is paid by who quantizes."""
    import bitsandbytes.functional

    return bitsandbytes.functional


def nf4(weight: Tensor, double_quant: bool = True) -> tuple[Tensor, Any]:
    """weight [out, in] -> codes [out * in / 2, 1] uint8, and bitsandbytes' QuantState."""
    codes, state = functional().quantize_4bit(
        weight.contiguous(), blocksize=BLOCK, compress_statistics=double_quant, quant_type="nf4"
    )
    return codes, state


def nf4_values(codes: Tensor, state: Any) -> Tensor:
    """[out, in] float32: codebook[code] * absmax, both as float32."""
    absmax = state.absmax
    if state.nested:
        absmax = functional().dequantize_blockwise(absmax, state.state2) + state.offset
    values: Tensor = torch.ops.bitsandbytes.dequantize_4bit(
        codes.view(torch.uint8).view(-1, 1),
        absmax.float(),
        state.blocksize,
        "nf4",
        state.shape,
        torch.float32,
    )
    return values


def int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [out, in] -> codes [out, in] int8, absmax [out] float32; rounded from float16 as LLM.int8."""
    codes, absmax, _ = functional().int8_vectorwise_quant(weight.to(torch.float16).contiguous())
    return codes, absmax.float().view(-1)


def int8_values(codes: Tensor, absmax: Tensor) -> Tensor:
    """[out, in] float32."""
    return codes * (absmax / 127).unsqueeze(-1)


def is_part(name: str) -> bool:
    """Whether the tensor of a checkpoint belongs to a quantized weight beside it."""
    return name.endswith(tuple(f".{part}" for part in _PARTS))


def state_name(weight: str) -> str:
    """The tensor that describes a weight of 4 bits."""
    return f"{weight}.{_STATE}"


def absmax_name(weight: str) -> str:
    """The tensor that holds the scales of a weight of 8 bits."""
    return f"{weight.removesuffix('.weight')}.SCB"


def saved_shape(state: Tensor) -> tuple[int, ...]:
    """[out, in] of a weight of 4 bits."""
    return tuple(json.loads(bytes(state.tolist()))["shape"])


def saved_nf4_values(name: str, held: Mapping[str, Tensor]) -> Tensor:
    """[out, in] float32 of a weight that was saved as 4 bits, from all tensors that begin with its name."""
    parts = {key.removeprefix(f"{name}."): tensor for key, tensor in held.items() if key != name}
    state = functional().QuantState.from_dict(parts, device=torch.device("cpu"))
    return nf4_values(held[name], state)


def saved_nf4(name: str, codes: Tensor, state: Any) -> dict[str, Tensor]:
    """The tensors of a checkpoint that hold it."""
    return {name: codes, **{f"{name}.{part}": tensor for part, tensor in state.as_dict(packed=True).items()}}


def saved_int8(name: str, codes: Tensor, absmax: Tensor) -> dict[str, Tensor]:
    """The same for int8; format 0 says that the codes stand row by row."""
    rows = torch.tensor(0, dtype=torch.uint8)
    return {name: codes, absmax_name(name): absmax, f"{name.removesuffix('.weight')}.weight_format": rows}


def config(kind: str) -> dict[str, Any]:
    """The `quantization_config` of a checkpoint of this kind, nf4 or int8."""
    is_nf4 = kind == "nf4"
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": is_nf4,
        "load_in_8bit": not is_nf4,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_threshold": 6.0,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": None,
    }


def require_blocks(name: str, weight: Tensor) -> None:
    """Raises MergeRefused unless rows are whole blocks."""
    if weight.shape[1] % BLOCK:
        raise MergeRefused(
            f"{name} has {weight.shape[1]} inputs, no multiple of {BLOCK}; write int8 or bf16 instead"
        )
