"""The base model's shape, read from a Hugging Face configuration. A family is a row of data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Token ids from here on are an adapter's virtual tokens, in order; no vocabulary comes near.
FIRST_VIRTUAL = 1 << 30


class UnsupportedModel(ValueError):
    """The base is of a kind that this server does not run; the message says which part."""


def require_folder_or_id(base: str) -> None:
    """Raises UnsupportedModel for what cannot be found, before the hub is asked in vain."""
    if not Path(base).is_dir() and (base.startswith((".", "/", "~")) or base.count("/") != 1):
        raise UnsupportedModel(f"{base} is neither a folder nor a hub id such as Qwen/Qwen2.5-7B-Instruct")


@dataclass(frozen=True)
class Family:
    """What a family has beside the plain decoder. None: as the configuration's field of that name says."""

    qkv_bias: bool | None = None
    o_bias: bool | None = None
    mlp_bias: bool | None = False
    qk_norm: bool = False


FAMILIES = {
    "llama": Family(mlp_bias=None),
    "mistral": Family(qkv_bias=False, o_bias=False),
    "qwen2": Family(qkv_bias=True, o_bias=False),
    "qwen3": Family(qk_norm=True),
}
ROPE_KINDS = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_context: int
    norm_eps: float
    tied_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    # The configuration this came from; transformers computes rotary frequencies from it.
    source: Any

    @classmethod
    def from_hf(cls, hf: Any) -> "ModelConfig":
        """From a transformers PretrainedConfig; raises UnsupportedModel."""
        family = FAMILIES.get(hf.model_type)
        if family is None:
            raise UnsupportedModel(
                f"model_type {hf.model_type!r} is not supported; supported are {', '.join(sorted(FAMILIES))}"
            )
        _refuse_unknown_parts(hf)
        attention_bias = bool(getattr(hf, "attention_bias", False))
        num_heads = hf.num_attention_heads
        return cls(
            family=hf.model_type,
            vocab_size=hf.vocab_size,
            hidden_size=hf.hidden_size,
            intermediate_size=hf.intermediate_size,
            num_layers=hf.num_hidden_layers,
            num_heads=num_heads,
            num_kv_heads=getattr(hf, "num_key_value_heads", None) or num_heads,
            head_dim=getattr(hf, "head_dim", None) or hf.hidden_size // num_heads,
            max_context=_max_context(hf),
            norm_eps=hf.rms_norm_eps,
            tied_embeddings=bool(hf.tie_word_embeddings),
            qkv_bias=attention_bias if family.qkv_bias is None else family.qkv_bias,
            o_bias=attention_bias if family.o_bias is None else family.o_bias,
            mlp_bias=bool(getattr(hf, "mlp_bias", False)) if family.mlp_bias is None else family.mlp_bias,
            qk_norm=family.qk_norm,
            source=hf,
        )

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Every linear an adapter may change: module name -> (out_features, in_features)."""
        hidden, ffn = self.hidden_size, self.intermediate_size
        of_layer = {
            "self_attn.q_proj": (self.q_size, hidden),
            "self_attn.k_proj": (self.kv_size, hidden),
            "self_attn.v_proj": (self.kv_size, hidden),
            "self_attn.o_proj": (hidden, self.q_size),
            "mlp.gate_proj": (ffn, hidden),
            "mlp.up_proj": (ffn, hidden),
            "mlp.down_proj": (hidden, ffn),
        }
        return {
            f"model.layers.{layer}.{name}": shape
            for layer in range(self.num_layers)
            for name, shape in of_layer.items()
        }


def _refuse_unknown_parts(hf: Any) -> None:
    if hf.hidden_act != "silu":
        raise UnsupportedModel(f"hidden_act {hf.hidden_act!r} is not supported; only silu is")
    rope = dict(getattr(hf, "rope_parameters", None) or {})
    if any(isinstance(value, dict) for value in rope.values()):
        raise UnsupportedModel("rotary embeddings that differ by layer are not supported")
    kind = rope.get("rope_type", "default")
    if kind not in ROPE_KINDS:
        raise UnsupportedModel(f"rope_type {kind!r} is not supported; supported are {', '.join(ROPE_KINDS)}")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModel("partial rotary embeddings are not supported")


def _max_context(hf: Any) -> int:
    """A sliding window changes nothing as long as no context is longer than the window."""
    sliding = getattr(hf, "use_sliding_window", True) and getattr(hf, "sliding_window", None)
    return int(min(hf.max_position_embeddings, sliding or hf.max_position_embeddings))
