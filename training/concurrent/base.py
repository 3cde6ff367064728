"""One frozen base, and a pass of several jobs' rows through it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from training.artifact import linear_shapes
from training.concurrent.attention import NAME, register
from training.concurrent.batch import Batch, joined
from training.concurrent.frozen import freeze
from training.concurrent.linear import Seats, SharedLinear
from training.concurrent.loss import summed_losses
from training.concurrent.pointwise import by_job, is_pointwise
from training.concurrent.rotary import TableRotary
from training.concurrent.updates import Grouped, OneByOne, Pair, Updates
from training.errors import InvalidBase
from training.model import Model

# Their angles change with the length of the batch, so a row's would depend on its neighbours.
CHANGING_ROTARIES = ("dynamic", "longrope")


class SharedBase:
    """A transformers model whose linears look up who is in the pass. It takes the model over."""

    def __init__(
        self, model: Model, *, together: bool, quantization: str = "none", checkpointing: bool = False
    ) -> None:
        """`together` multiplies all jobs' tokens at once: faster, but equal only to rounding.

        Raises `InvalidBase`.
        """
        self.linears = linear_shapes(model)
        self.device: torch.device = model.device
        self._plain_config = copy.deepcopy(model.config)
        self._model = model.requires_grad_(False)
        self._seats = Seats(together)
        self._wrap(quantization)
        self.dtype: torch.dtype = self._head.dtype
        self._grouped = together and self.device.type == "cuda" and self.dtype == torch.bfloat16
        if checkpointing:
            recompute_layers(model)

    def skeleton(self) -> Model:
        """The bare base as PEFT wants to see it, with weights that take no memory."""
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(copy.deepcopy(self._plain_config))
        for module in model.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                blank = torch.zeros(()).expand(weight.shape)
                module.register_parameter(name, nn.Parameter(blank, requires_grad=False))
        return model

    def learn(
        self, batch: Batch, adapters: Sequence[Mapping[str, Pair]], counts: Sequence[int]
    ) -> list[float]:
        """Adds each job's gradient to its pairs'; returns each job's summed loss over its count."""
        with self._seats.taken(batch, self._updates(batch, adapters)):
            losses = self._losses(batch, counts)
            losses.sum().backward()  # type: ignore[no-untyped-call]
        numbers: list[float] = losses.tolist()
        return numbers

    @torch.no_grad()
    def judge(self, batch: Batch, adapters: Sequence[Mapping[str, Pair]]) -> list[float]:
        """The sum of each job's loss over its tokens."""
        with self._seats.taken(batch, self._updates(batch, adapters)):
            numbers: list[float] = self._losses(batch, [1] * len(adapters)).tolist()
        return numbers

    def _losses(self, batch: Batch, counts: Sequence[int]) -> Tensor:
        out = self._model.get_decoder()(
            inputs_embeds=self._model.get_input_embeddings()(batch.ids[None]),
            position_ids=batch.positions[None],
            use_cache=False,
            segments=joined(batch.segments) if self._seats.together else batch.segments,
        )
        return summed_losses(out.last_hidden_state[0], self._head, batch, counts, self._seats.together)

    def _updates(self, batch: Batch, adapters: Sequence[Mapping[str, Pair]]) -> dict[str, Updates]:
        names = {name for adapter in adapters for name in adapter}
        if self._grouped:
            ends = torch.tensor([each.end for each in batch.segments], dtype=torch.int32, device=self.device)
            return {name: Grouped([adapter.get(name) for adapter in adapters], ends) for name in names}
        sizes = batch.sizes
        return {name: OneByOne(sizes, [adapter.get(name) for adapter in adapters]) for name in names}

    def _wrap(self, quantization: str) -> None:
        register()
        model, seats = self._model, self._seats
        model.set_attn_implementation(NAME)
        self._head: Tensor = model.get_output_embeddings().weight
        for name in self.linears:
            linear = model.get_submodule(name)
            shared = SharedLinear(name, freeze(linear, quantization), linear.bias, seats)
            model.set_submodule(name, shared)
        body = model.get_decoder()
        kind = getattr(body.rotary_emb, "rope_type", "default")
        if kind in CHANGING_ROTARIES:
            raise InvalidBase(
                f"{kind} rotary angles depend on the batch: train adapters of this base one by one"
            )
        for name, module in list(body.named_modules()):
            if is_pointwise(module) and module is not body.rotary_emb:
                body.set_submodule(name, by_job(module, seats))
        body.rotary_emb = TableRotary(body.rotary_emb, seats)


def recompute_layers(model: Model) -> None:
    """Has each layer keep nothing but its input."""
    # The name from transformers 5.23 on, and the one before.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False, "preserve_rng_state": False})
    # transformers does so in training mode only, which is nothing else to a frozen base.
    model.train()
