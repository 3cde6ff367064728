"""transformers' Llama of a real model's shape, random weights made and quantized one by one."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from loadtests.synthetic import llama_of


def random_model(shape: str, quantization: str, dtype: torch.dtype, device: torch.device) -> Any:
    """In eval mode; its linears but the head are bitsandbytes' if `quantization` is nf4."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(llama_of(shape), dtype=dtype)
    generator = torch.Generator(device).manual_seed(0)
    for name, weight in list(model.named_parameters()):
        owner, _, last = name.rpartition(".")
        module = model.get_submodule(owner)
        drawn = _drawn(weight.shape, dtype, device, generator)
        if quantization == "nf4" and type(module) is nn.Linear and module is not model.lm_head:
            model.set_submodule(owner, _four_bit(drawn, dtype))
        else:
            module.register_parameter(last, nn.Parameter(drawn, requires_grad=False))
    with device:
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    return model.eval()


def _drawn(shape: torch.Size, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> Tensor:
    """Norms are ones; others keep the size of what they are multiplied with."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=dtype, device=device)
    spread = 1 / math.sqrt(shape[1])
    return torch.randn(shape, generator=generator, dtype=dtype, device=device).mul_(spread)


def _four_bit(weight: Tensor, dtype: torch.dtype) -> nn.Module:
    import bitsandbytes as bnb

    rows, width = weight.shape
    linear: nn.Module = bnb.nn.Linear4bit(
        width, rows, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta"
    )
    codes = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", module=linear)
    # Told where to be, it quantizes itself.
    linear.weight = codes.to(weight.device)
    return linear
