"""transformers + PEFT as the peer: the same base, adapters, prompts and lengths."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


class PeftPeer:
    """`generate` over one base with several adapters loaded, greedy, float32."""

    def __init__(self, base: Path, adapters: Sequence[Path]) -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        for index, folder in enumerate(adapters):
            if index == 0:
                model = PeftModel.from_pretrained(model, folder, adapter_name="0")
            else:
                model.load_adapter(folder, adapter_name=str(index))
        # Every answer has the same length, and no token is held off for it.
        model.generation_config.eos_token_id = None
        self._model = model.eval()

    def mixed(
        self, prompts: Sequence[list[int]], adapters: Sequence[int], num_tokens: int
    ) -> list[list[int]]:
        """One batch, each row with its own adapter."""
        return self._generate(prompts, num_tokens, adapter_names=[str(a) for a in adapters])

    def one_by_one(
        self, prompts: Sequence[list[int]], adapters: Sequence[int], num_tokens: int
    ) -> list[list[int]]:
        """The usual way: switch the adapter, answer one request."""
        answers = []
        for prompt, adapter in zip(prompts, adapters, strict=True):
            self._model.set_adapter(str(adapter))
            answers += self._generate([prompt], num_tokens)
        return answers

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[list[int]], num_tokens: int, **options: Any) -> list[list[int]]:
        # Every core, whatever the engine in this process was given.
        torch.set_num_threads(os.cpu_count() or 1)
        ids = torch.tensor(prompts)
        out = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_tokens,
            do_sample=False,
            **options,
        )
        return out[:, ids.shape[1] :].tolist()  # type: ignore[no-any-return]
