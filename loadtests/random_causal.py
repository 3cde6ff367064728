"""transformers' model of a real model's shape with random weights, made layer by layer on its device."""

import math
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from loadtests.synthetic import MAX_CONTEXT, SHAPES


def random_causal(
    shape: str,
    quantization: str,
    device: torch.device,
    dtype: torch.dtype,
    storage: torch.dtype = torch.uint8,
) -> Any:
    """As `from_pretrained` would give it; `quantization` is none or nf4, whose codes `storage` holds."""
    config = LlamaConfig(
        **SHAPES[shape],
        max_position_embeddings=MAX_CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    head, generator = model.get_output_embeddings(), torch.Generator(device).manual_seed(0)

    def drawn(like: torch.Tensor, spread: float) -> torch.Tensor:
        noise = torch.randn(like.shape, generator=generator, dtype=dtype, device=device)
        return noise.mul_(spread)

    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            weight = drawn(module.weight, 1 / math.sqrt(module.in_features))
            if quantization == "nf4" and module is not head:
                model.set_submodule(name, _four_bit(module, weight, storage))
            else:
                module.weight = nn.Parameter(weight, requires_grad=False)
        elif isinstance(module, nn.Embedding):
            module.weight = nn.Parameter(drawn(module.weight, 1.0), requires_grad=False)
        elif "norm" in name:
            module.weight = nn.Parameter(torch.ones(module.weight.shape, dtype=dtype, device=device))
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(device)
    model.is_loaded_in_4bit = quantization == "nf4"
    return model.eval()


def _four_bit(linear: nn.Linear, weight: torch.Tensor, storage: torch.dtype) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    options: dict[str, Any] = {"compress_statistics": True, "quant_type": "nf4", "quant_storage": storage}
    shape = linear.in_features, linear.out_features
    made = Linear4bit(*shape, bias=False, compute_dtype=weight.dtype, device="meta", **options)
    made.weight = Params4bit(weight, requires_grad=False, module=made, **options).to(weight.device)
    return made  # type: ignore[no-any-return]
