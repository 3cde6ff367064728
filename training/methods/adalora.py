"""AdaLoRA's pruning, which PEFT leaves to the loop: without these calls no rank is ever taken away."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.config import AdaLoraSection
from training.errors import InvalidConfig


class Pruning(TrainerCallback):  # type: ignore[misc]
    """Tells AdaLoRA of every step, after it and while its gradients are still there."""

    def __init__(self, model: PeftModel, course: AdaLoraSection) -> None:
        self._model = model
        self._course = course

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        settings = self._model.peft_config["default"]
        settings.total_step = state.max_steps
        settings.tinit = int(self._course.warmup * state.max_steps)
        settings.tfinal = int(self._course.final * state.max_steps)
        if state.max_steps - settings.tfinal < 2:
            raise InvalidConfig(
                [f"method adalora prunes between steps, and {state.max_steps} are too few: train for more"]
            )

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._model.base_model.update_and_allocate(state.global_step + 1)

    def state_dict(self) -> dict[str, Any]:
        """What pruning goes by and the adapter's weights do not tell."""
        allocator = self._model.base_model.rankallocator
        return {
            "ipt": allocator.exp_avg_ipt,
            "uncertainty": allocator.exp_avg_unc,
            "rank_pattern": self._model.peft_config["default"].rank_pattern,
        }

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        """Takes `state_dict`'s answer back."""
        allocator = self._model.base_model.rankallocator
        allocator.exp_avg_ipt, allocator.exp_avg_unc = kept["ipt"], kept["uncertainty"]
        # PEFT looks a weight up here first, and replaces what it finds before it reads it.
        allocator.ipt = dict.fromkeys(kept["ipt"])
        self._model.peft_config["default"].rank_pattern = kept["rank_pattern"]


@torch.no_grad()
def note_pruned(model: PeftModel) -> None:
    """Has PEFT save the ranks that are not zero, and those alone, at whatever point the run has stopped.

    The pattern that pruning leaves behind may drop ranks that have grown again since.
    """
    masks = {
        name: (weight != 0).view(-1).tolist()
        for name, weight in model.base_model.model.named_parameters()
        if "lora_E" in name
    }
    model.peft_config["default"].rank_pattern = masks
