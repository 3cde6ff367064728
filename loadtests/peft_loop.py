"""The usual way to train one adapter: transformers, PEFT and a plain loop."""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from training.artifact import linear_shapes
from training.concurrent.base import recompute_layers


class PeftLoop:
    """One LoRA over `model`, which it keeps."""

    def __init__(self, model: Any, rank: int, checkpointing: bool) -> None:
        targets = sorted({name.rpartition(".")[2] for name in linear_shapes(model)})
        settings = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules=targets)
        self._device = model.device
        if checkpointing:
            recompute_layers(model)
            model.enable_input_require_grads()
        self._adapted = get_peft_model(model, settings)
        self._weights = [weight for weight in self._adapted.parameters() if weight.requires_grad]
        self._optimizer = torch.optim.AdamW(self._weights, lr=1e-4, fused=self._device.type == "cuda")

    def step(self, ids: Tensor) -> None:
        """One step over `ids` [rows, length], of which every token but the first is learned."""
        with torch.autocast("cuda", torch.bfloat16, enabled=self._device.type == "cuda"):
            loss = self._adapted(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
