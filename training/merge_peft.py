"""Kinds without a normal form, merged by PEFT itself into plain float32 weights: a whole model in memory.

Never over bitsandbytes' modules: PEFT 0.21 forgets that a forward pass repacks their weights on some CPUs.
"""

from __future__ import annotations

import json
from pathlib import Path

from peft import PeftConfig, PeftModel
from torch import Tensor

from adapters.config_keys import MERGE
from adapters.files import CONFIG_NAME, WEIGHTS_NAME, describe
from adapters.kinds import KINDS, refusal
from adapters.manifest import content_digest
from adapters.merge.changes import Changes
from adapters.merge.errors import MergeRefused
from adapters.merge.recipes import Trained
from adapters.merge.sources import Source
from adapters.normal import AdapterWeights, LinearChange
from training.merge_models import dense_model, hushed


def is_for_peft(folder: Path) -> bool:
    """Whether the adapter is of a kind that only PEFT can turn into weights."""
    try:
        kind = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8")).get("peft_type")
    except (OSError, ValueError, AttributeError):
        return False
    return isinstance(kind, str) and kind not in KINDS and MERGE in refusal(kind)


def open_for_peft(folder: Path) -> Source:
    """Raises InvalidAdapter where it has no safetensors."""
    files = [describe(folder / name) for name in (CONFIG_NAME, WEIGHTS_NAME)]
    kind = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))["peft_type"]
    return Source(folder, content_digest(files), kind.lower(), None)


def peft_changes(source: Source, trained: Trained) -> Changes:
    """The difference that PEFT's own merge makes to each linear. Raises MergeRefused."""
    with hushed():
        model = PeftModel(dense_model(trained), PeftConfig.from_pretrained(str(source.folder)))
        loaded = model.load_adapter(str(source.folder), adapter_name="default")
        if loaded.unexpected_keys:
            raise MergeRefused(
                f"the base has no place for {loaded.unexpected_keys[0]} of {source.folder}; was the adapter "
                "trained on another base?"
            )
        state: dict[str, Tensor] = model.merge_and_unload().state_dict()
    _refuse_others(state, trained)
    shapes = trained.checkpoint.shapes()
    linears = {
        name: LinearChange(bias=_moved(state, trained, f"{name}.bias") if name in shapes.biases else None)
        for name in shapes.linears
        if _moved(state, trained, f"{name}.weight").any()
    }
    return Changes(AdapterWeights(linears), lambda name: _moved(state, trained, f"{name}.weight"))


def _refuse_others(state: dict[str, Tensor], trained: Trained) -> None:
    checkpoint = trained.checkpoint
    for name in checkpoint.names():
        of_linear = checkpoint.is_linear(name) or checkpoint.is_linear(f"{name.removesuffix('.bias')}.weight")
        if not of_linear and name in state and _moved(state, trained, name).any():
            raise MergeRefused(f"it also changes {name}; this kind is merged where it changes linears alone")


def _moved(state: dict[str, Tensor], trained: Trained, name: str) -> Tensor:
    return state[name].cpu() - trained[name]
