"""The base as adapters are checked against it."""

from adapters.shapes import BaseShapes
from server.model.config import ModelConfig


def base_shapes(config: ModelConfig, fingerprint: str = "", quantization: str = "") -> BaseShapes:
    """All that an adapter may change: linears and their biases, norms, embedding, head and cache."""
    linears = config.linear_shapes()
    endings = (
        *(("q_proj", "k_proj", "v_proj") if config.qkv_bias else ()),
        *(("o_proj",) if config.o_bias else ()),
        *(("gate_proj", "up_proj", "down_proj") if config.mlp_bias else ()),
    )
    return BaseShapes(
        linears=linears,
        biases=frozenset(name for name in linears if name.endswith(endings)),
        norms=_norms(config),
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        tied=config.tied_embeddings,
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        fingerprint=fingerprint,
        quantization=quantization,
    )


def _norms(config: ModelConfig) -> dict[str, int]:
    of_layer = {"input_layernorm": config.hidden_size, "post_attention_layernorm": config.hidden_size}
    if config.qk_norm:
        of_layer |= {"self_attn.q_norm": config.head_dim, "self_attn.k_norm": config.head_dim}
    names = {
        f"model.layers.{layer}.{name}": size
        for layer in range(config.num_layers)
        for name, size in of_layer.items()
    }
    return {**names, "model.norm": config.hidden_size}
