"""The tensors of one forward pass."""

from dataclasses import dataclass, field

from torch import Tensor

from server.kernels.attention import AttentionPlan
from server.kernels.lora import LoraPack, Segment, lora_add, row_mask

# The linears of a layer as the decoder holds them, and the ones of the checkpoint they are made of.
FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


@dataclass(frozen=True)
class LoraStep:
    """The adapters of one step: its tokens are sorted by slot, so each adapter's stand together."""

    packs: list[dict[str, LoraPack]]
    segments: list[Segment]
    # Most linears share their bounds, so one mask serves them all.
    _masks: dict[tuple[int, ...], Tensor | None] = field(default_factory=dict)

    def add(self, y: Tensor, x: Tensor, layer: int, linear: str) -> None:
        """y [tokens, out] += every adapter's update of x [tokens, in], in place."""
        pack = self.packs[layer].get(linear)
        if pack is None:
            return
        if pack.bounds not in self._masks:
            self._masks[pack.bounds] = row_mask(x.shape[0], pack.bounds, self.segments, x.device)
        lora_add(y, x, pack, self.segments, self._masks[pack.bounds])


@dataclass(frozen=True)
class Step:
    """token_ids, positions: [tokens]. sampled: [sequences] the rows whose next token is wanted."""

    token_ids: Tensor
    positions: Tensor
    attention: AttentionPlan
    lora: LoraStep | None
    sampled: Tensor
