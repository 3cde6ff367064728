"""The tensors of one forward pass."""

from dataclasses import dataclass

from torch import Tensor

from server.kernels.attention import AttentionPlan, PagedPlan
from server.model.linears import Lora
from server.model.whole import WholeStep


@dataclass(frozen=True)
class Step:
    """token_ids, positions: [tokens]. sampled: [sequences] the rows whose next token is wanted; None: all.

    A token id -(r + 1) stands for previous[r], which the step before sampled and only the device knows.
    whole: of the adapters that change more than linears; None: there are none.
    """

    token_ids: Tensor
    positions: Tensor
    attention: AttentionPlan | PagedPlan
    lora: Lora | None
    sampled: Tensor | None
    previous: Tensor | None = None
    whole: WholeStep | None = None
