"""The base as the adapter knew it: an adapter corrects the weights that it was trained on, rounding and all.

none    W                       nf4    dequantize(quantize(W)), scales rounded to 8 bits as in QLoRA
                                int8   codes * absmax / 127
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapters.deltas.context import Base
from adapters.fingerprint import base_fingerprint
from adapters.merge import bnb
from adapters.merge.checkpoint import Checkpoint, as_float
from adapters.merge.errors import MergeRefused

RECIPES = ("none", "nf4", "int8")


@dataclass(frozen=True)
class Trained:
    """A checkpoint under a recipe. Only the layers' linears are quantized, as bitsandbytes does it.

    `dtype` is what the weights are cast to before they are quantized, as a trainer's load casts them; None
    keeps what they are stored in.
    """

    checkpoint: Checkpoint
    recipe: str
    dtype: torch.dtype | None = None

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of a weight, a bias or a norm in float32, as it took part in training."""
        stored = self.checkpoint.dense(name)
        if self.dtype is not None and stored.is_floating_point():
            stored = stored.to(self.dtype)
        if self.recipe == "none" or self.checkpoint.is_quantized or not self.checkpoint.is_linear(name):
            return as_float(stored)
        return rounded(stored, self.recipe)

    def base(self) -> Base:
        """What kinds that are made of the base's weights are computed from."""
        shapes = self.checkpoint.shapes()
        head = "model.embed_tokens.weight" if shapes.tied else "lm_head.weight"
        return Base(
            shapes=shapes,
            weight=lambda name: self[head if name == "lm_head" else f"{name}.weight"],
            bias=lambda name: self[f"{name}.bias"],
        )


def rounded(weight: Tensor, recipe: str) -> Tensor:
    """[out, in] float32: what is left of a weight after it was quantized."""
    return bnb.nf4_values(*bnb.nf4(weight)) if recipe == "nf4" else bnb.int8_values(*bnb.int8(weight))


def find_recipe(told: str | None, story: Mapping[str, Any] | None, checkpoint: Checkpoint) -> str:
    """Which recipe the base had in training: as the trainer's manifest says, else as the caller does.

    Raises MergeRefused where nobody says, and where two say different things.
    """
    written = (story or {}).get("quantization")
    said = {
        recipe: who for recipe, who in ((written, "the adapter's manifest"), (told, "--trained-on")) if recipe
    }
    if checkpoint.is_quantized:
        said.setdefault(_saved_as(checkpoint), "the base's own quantization")
    if len(said) > 1:
        raise MergeRefused(
            "; ".join(f"{who} says {recipe}" for recipe, who in said.items())
            + "; give the base it was trained on"
        )
    if not said:
        raise MergeRefused(
            "nothing says how the base was held while the adapter was trained: add --trained-on none, nf4 "
            "(QLoRA) or int8. The wrong one brings back the error that the adapter learned to correct"
        )
    (recipe,) = said
    if recipe not in RECIPES:
        raise MergeRefused(
            f"the adapter was trained on a base in {recipe!r}; only {', '.join(RECIPES)} can be replayed"
        )
    return recipe


def check_base(story: Mapping[str, Any] | None, checkpoint: Checkpoint, recipe: str) -> None:
    """Raises MergeRefused where the trainer's manifest names another base by its fingerprint."""
    wanted = (story or {}).get("base_fingerprint")
    if wanted and wanted != (own := base_fingerprint(checkpoint.folder, recipe)):
        raise MergeRefused(
            f"the adapter was trained over base {wanted[:12]} and {checkpoint.folder} in {recipe} is base "
            f"{own[:12]}; merge it into the base it was trained on"
        )


def _saved_as(checkpoint: Checkpoint) -> str:
    return "int8" if checkpoint.config["quantization_config"].get("load_in_8bit") else "nf4"
