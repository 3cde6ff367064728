"""Adapters that were trained on a rewritten base, saved as adapters of the base as it is.

PiSSA and OLoRA take their start B0 A0 out of W, so that W - s B0 A0 + s B A is trained. What is saved is the
pair [B, -B0] [A; A0] of twice the rank, which is the same over W.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from training.config import TrainConfig
from training.encode import Example
from training.errors import UnservableAdapter
from training.evaluate import padded
from training.model import load_adapted, resolve_dtype

_START = "start"
_NUM_ROWS = 8
# Relative error of the logits: rounding in the number format of the base, and room above it.
_BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


def write_start(model: PeftModel, folder: Path) -> None:
    """Keeps the start that was taken out of the base, in `folder`."""
    settings = model.peft_config["default"]
    init, settings.init_lora_weights = settings.init_lora_weights, True
    model.save_pretrained(str(folder / _START), save_embedding_layers=False)
    settings.init_lora_weights = init


def save_converted(model: PeftModel, folder: Path) -> None:
    """Writes the adapter of the base as it is, and takes the start out of `folder`."""
    with warnings.catch_warnings():
        # PEFT says here that a second adapter is loaded, which is how it subtracts.
        warnings.simplefilter("ignore")
        model.save_pretrained(
            str(folder),
            save_embedding_layers=False,
            path_initial_model_for_weight_conversion=str(folder / _START),
        )
    shutil.rmtree(folder / _START)


def check_conversion(
    model: PeftModel, folder: Path, config: TrainConfig, examples: Sequence[Example], pad: int
) -> float:
    """Relative error of the saved adapter's logits over the base as it is, against the trained model's.

    Raises `UnservableAdapter` above what rounding explains.
    """
    rows = padded(examples[:_NUM_ROWS], pad)
    trained = _logits(model, rows)
    saved = _logits(load_adapted(config.base, folder, config.dtype), rows)
    error = float((saved - trained).norm() / trained.norm())
    if not error <= _BOUNDS[resolve_dtype(config.dtype)]:
        raise UnservableAdapter(
            f"over the base as it is, the adapter's logits are off by {error:.2%}: the conversion of "
            f"lora.init = {config.lora.init} has failed; train with another start"
        )
    return error


@torch.no_grad()
def _logits(model: PeftModel, rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """[tokens, vocab] float32 of all that is no padding."""
    ids, _, mask = (part.to(model.device) for part in rows)
    found: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return found[mask.bool()].float()
