"""Starts of LoRA's pair that need more than a seed: the data (EVA), the unquantized base (LoftQ)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from huggingface_hub import snapshot_download
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.eva import initialize_lora_eva_weights
from torch import Tensor

from adapters.merge.checkpoint import Checkpoint, as_float
from training.config import TrainConfig
from training.encode import Example
from training.errors import InvalidConfig
from training.evaluate import padded

# Far more than EVA takes on real data, which settles within a few dozen batches.
_MOST_BATCHES = 1000


def start_from_data(model: PeftModel, examples: Sequence[Example], config: TrainConfig, pad: int) -> None:
    """EVA: the rows of A become the strongest directions of what each linear sees; B stays zero.

    Raises `InvalidConfig` where the rows are too few for the rank.
    """
    wanted = round(config.lora.rank * config.lora.eva_rho)
    batches = [
        batch
        for start in range(0, len(examples), config.optim.batch_size)
        if (batch := _batch(examples[start : start + config.optim.batch_size], pad, model.device))[
            "attention_mask"
        ].sum()
        > wanted
    ]
    if not batches:
        raise InvalidConfig(
            [f"lora.init = eva needs batches of more than {wanted} tokens: raise optim.batch_size"]
        )
    # Every token counts: the answers alone may be fewer than the rank.
    model.peft_config["default"].eva_config.use_label_mask = False
    initialize_lora_eva_weights(model, _Limited(batches), show_progress_bar=False)


class _Limited:
    """Batches over and over, as PEFT asks for them, but not for ever."""

    def __init__(self, batches: Sequence[dict[str, Tensor]]) -> None:
        self._batches = batches
        self._given = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self._batches:
            if self._given == _MOST_BATCHES:
                raise InvalidConfig(["lora.init = eva finds no stable directions: lower lora.rank"])
            self._given += 1
            yield batch


def _batch(examples: Sequence[Example], pad: int, device: torch.device) -> dict[str, Tensor]:
    ids, labels, mask = (part.to(device) for part in padded(examples, pad))
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


@torch.no_grad()
def start_from_rounding(model: PeftModel, base: str) -> None:
    """LoftQ: scale * B A becomes the best pair for W - dequantize(quantize(W)), so training starts nearer W.

    To be called before the first forward pass, in which bitsandbytes repacks its codes on some CPUs. PEFT's
    own function needs a GPU and leaves the scale out. Raises `InvalidConfig` for a base saved quantized.
    """
    checkpoint = Checkpoint(_local(base))
    if checkpoint.is_quantized:
        raise InvalidConfig(["lora.init = loftq needs the base's full weights, and it was saved quantized"])
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, LoraLayer):
            codes = module.get_base_layer().weight
            held = dequantize_4bit(codes.data, codes.quant_state)
            lost = as_float(checkpoint.dense(f"{name}.weight")).to(held.device) - held.float()
            _set_pair(module, lost / module.scaling["default"])


def _set_pair(module: Any, update: Tensor) -> None:
    """The nearest pair to `update` [out, in], split evenly between its two factors."""
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    rank = a.shape[0]
    u, s, vh = torch.linalg.svd(update, full_matrices=False)
    root = s[:rank].sqrt()
    a.copy_(root[:, None] * vh[:rank])
    b.copy_(u[:, :rank] * root)


def _local(base: str) -> Path:
    """The folder with the base's own files, which loading it has fetched before."""
    folder = Path(base)
    return folder if folder.is_dir() else Path(snapshot_download(base, local_files_only=True))
