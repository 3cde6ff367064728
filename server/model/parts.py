"""A layer's seven linears as the decoder holds them: four, some of them several in one."""

from itertools import accumulate, count

from server.kernels.lora import Part
from server.model.config import ModelConfig

# The linears of a layer as the decoder holds them, and the ones of the checkpoint they are made of.
FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


def linear_parts(config: ModelConfig) -> dict[str, tuple[Part, ...]]:
    """Where each of a layer's seven linears stands in the decoder's four."""
    shapes, index = config.linear_shapes(), count()
    parts = {}
    for linear, names in FUSED.items():
        widths = [shapes[f"model.layers.0.{name}"][0] for name in names]
        columns = accumulate(widths, initial=0)
        parts[linear] = tuple(
            Part(next(index), column, width) for column, width in zip(columns, widths, strict=False)
        )
    return parts
