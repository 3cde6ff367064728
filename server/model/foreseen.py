"""Every kernel that steps of a decoder on its device's kernels may ask for, whatever tokens they bring."""

from server.kernels.background import Wanted
from server.kernels.lora import AdapterMemory
from server.model.decoder import Decoder


def foreseen(decoder: Decoder, memory: AdapterMemory, block_size: int, max_running: int) -> list[Wanted]:
    """Each once; those of decodes, which a start waits for, first. Needs a CUDA device."""
    from server.kernels import attention_cuda, fused_cuda, lora_triton
    from server.kernels.tiled import TiledWeight

    config, has_norms = decoder.config, decoder.layers[0].q_norm is not None
    wanted = attention_cuda.foreseen(decoder.heads, block_size, has_norms, max_running)
    wanted += fused_cuda.foreseen(
        config.hidden_size, config.intermediate_size, decoder.lm_head.weight.shape[0]
    )
    for layer in decoder.layers:
        linears = {"qkv": layer.qkv, "o": layer.o, "gate_up": layer.gate_up, "down": layer.down}
        for name, linear in linears.items():
            parts, weight = decoder.parts[name], linear.weight
            if isinstance(weight, TiledWeight):
                wanted += weight.foreseen(len(parts), memory.max_rank)
            wanted += lora_triton.foreseen(memory, parts, *weight.shape)
    return list(dict.fromkeys(wanted))
