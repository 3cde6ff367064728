"""The tensors of one forward pass."""

from dataclasses import dataclass, field, replace
from itertools import accumulate, count

from torch import Tensor

from server.kernels.attention import AttentionPlan, PagedPlan
from server.kernels.lora import (
    AdapterMemory,
    LoraPack,
    Part,
    Segment,
    SlotBatch,
    Update,
    lora_add,
    row_mask,
)
from server.model.config import ModelConfig

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

    def located(self) -> "LoraStep":
        return self

    def of(self, layer: int, linear: str, parts: tuple[Part, ...]) -> Update | None:
        """What the adapters add to one linear of one layer."""
        pack = self.packs[layer].get(linear)
        return None if pack is None else PackUpdate(self, pack)

    def mask(self, bounds: tuple[int, ...], x: Tensor) -> Tensor | None:
        if bounds not in self._masks:
            self._masks[bounds] = row_mask(x.shape[0], bounds, self.segments, x.device)
        return self._masks[bounds]


@dataclass(frozen=True)
class PackUpdate:
    """The update of a step's packs to one linear."""

    lora: LoraStep
    pack: LoraPack

    def add(self, y: Tensor, x: Tensor) -> None:
        lora_add(y, x, self.pack, self.lora.segments, self.lora.mask(self.pack.bounds, x))


@dataclass(frozen=True)
class SlotLora:
    """The same for the device's kernels, which find an adapter by its slot."""

    memory: AdapterMemory
    batch: SlotBatch

    def located(self) -> "SlotLora":
        """With every token's adapter looked up: once a step, and not once a linear."""
        return replace(self, batch=self.batch.located(self.memory))

    def of(self, layer: int, linear: str, parts: tuple[Part, ...]) -> Update | None:
        from server.kernels.slot_update import SlotUpdate

        return SlotUpdate(self.memory, self.batch, layer, parts)


Lora = LoraStep | SlotLora


@dataclass(frozen=True)
class Step:
    """token_ids, positions: [tokens]. sampled: [sequences] the rows whose next token is wanted; None: all.

    A token id -(r + 1) stands for previous[r], which the step before sampled and only the device knows.
    """

    token_ids: Tensor
    positions: Tensor
    attention: AttentionPlan | PagedPlan
    lora: Lora | None
    sampled: Tensor | None
    previous: Tensor | None = None


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
