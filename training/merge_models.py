"""The models that a merge is checked with: ordinary transformers and PEFT, over plain float32 weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoModelForCausalLM

from adapters.merge.changes import Changes
from adapters.merge.recipes import Trained
from adapters.merge.sources import Source
from adapters.shapes import HEAD


def dense_model(trained: Trained, changes: Changes | None = None) -> Any:
    """The checkpoint under its recipe, every weight in float32; `changes` are made to its linears."""
    checkpoint = trained.checkpoint
    config = AutoConfig.from_pretrained(checkpoint.folder)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    names = [name for name in checkpoint.names() if not (checkpoint.is_tied and name == f"{HEAD}.weight")]
    state = {name: trained[name] for name in names}
    for name in checkpoint.shapes().linears if changes else ():
        assert changes is not None
        state[f"{name}.weight"] = changes.linear(name, state[f"{name}.weight"])
    with torch.device("meta"):
        kind = type(AutoModelForCausalLM.from_config(config))
    model = kind.from_pretrained(None, config=config, state_dict=state, dtype=torch.float32)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def grown(model: Any, sources: Sequence[Source]) -> Any:
    """`model` with room for the tokens that the adapters add; it knows nothing of them."""
    size, top = model.get_input_embeddings().weight.shape[0], max(source.top_token for source in sources)
    if top >= size:
        model.resize_token_embeddings(top + 1, mean_resizing=False)
        for table in (model.get_input_embeddings(), model.get_output_embeddings()):
            table.weight[size:] = 0
    return model


def adapted(model: Any, sources: Sequence[Source], factors: Sequence[float]) -> PeftModel:
    """`model` under PEFT's own adapters, all of them at once, each times its factor."""
    names = [f"adapter{number}" for number in range(len(sources))]
    with hushed():
        peft = PeftModel.from_pretrained(model, str(sources[0].folder), adapter_name=names[0])
        for name, source in zip(names[1:], sources[1:], strict=True):
            peft.load_adapter(str(source.folder), adapter_name=name)
    if len(names) > 1 or factors[0] != 1:
        peft.base_model.set_adapter(names)
        _scale(peft, names, factors)
    return peft.eval()


def _scale(peft: PeftModel, names: Sequence[str], factors: Sequence[float]) -> None:
    for module in peft.modules():
        if isinstance(module, LoraLayer):
            for name, factor in zip(names, factors, strict=True):
                if name in module.scaling:
                    module.set_scale(name, factor)


@contextmanager
def hushed() -> Iterator[None]:
    """PEFT warns of settings that are of no matter to a forward pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
