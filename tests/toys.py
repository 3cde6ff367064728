"""Tiny seeded bases and adapters, made with transformers and PEFT, which are also the oracles."""

import select
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from adapters import LocalStore
from adapters.format import inspect
from server.engine.build import build_engine
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.messages import Abort, Failure, Sampling, Submit, Token
from server.model.config import ModelConfig
from server.model.shapes import base_shapes

VOCAB = 320
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "llama3": {"model_type": "llama", "rope_parameters": LLAMA3_ROPE},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
}


def make_model(family: str = "llama", seed: int = 0, **shape: Any) -> PreTrainedModel:
    """Weights wide enough that logits differ by more than rounding."""
    options = {"model_type": family, **SMALL, **FAMILIES[family], **shape}
    config = AutoConfig.for_model(**options)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        middle = 1.0 if "norm" in name else 0.0
        is_inner = "layers" in name
        spread = 0.15 * (SMALL["hidden_size"] / config.hidden_size) ** 0.5 if is_inner else 0.15
        torch.nn.init.normal_(parameter, middle, 0.1 if "norm" in name or "bias" in name else spread)
    return model


def make_base(folder: Path, family: str = "llama", seed: int = 0, **shape: Any) -> Path:
    make_model(family, seed, **shape).save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, seed: int = 1, **options: Any) -> Path:
    """A PEFT folder with both matrices random, strong enough to change greedy answers."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    options = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **options}
    torch.manual_seed(seed)
    peft = get_peft_model(model, LoraConfig(**options))
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, 0.0, 0.1)
    peft.save_pretrained(folder)
    (folder / "README.md").unlink()
    return folder


def store_adapter(root: Path, base: Path, folder: Path, name: str, tenant: str = "default") -> str:
    """Through the store's front door; returns the digest."""
    shapes = base_shapes(ModelConfig.from_hf(AutoConfig.from_pretrained(base)))
    manifest = inspect(folder, shapes, 256)
    store = LocalStore(root)
    try:
        with store.stage(list(manifest.files), 1 << 30) as staging:
            for file in manifest.files:
                staging.write(file.name, 0, (folder / file.name).read_bytes())
            staging.seal()
            return store.commit(staging, tenant, name, manifest).digest
    finally:
        store.close()


@dataclass
class Driven:
    """An engine stepped by the test itself."""

    engine: Engine

    def __post_init__(self) -> None:
        self._ids = count(1)
        self.tokens: dict[int, list[Token]] = {}
        self.failures: dict[int, Failure] = {}

    def submit(
        self,
        prompt: list[int],
        adapter: str = "",
        tenant: str = "default",
        answered: int = 0,
        num_virtual: int = 0,
        has_keys: bool = False,
        **sampling: Any,
    ) -> int:
        options = {"max_new_tokens": 12, **sampling}
        request = Submit(
            id=next(self._ids),
            tenant=tenant,
            adapter=adapter,
            tokens=prompt,
            sampling=Sampling(**options),
            arrived_at=0.0,
            num_answered=answered,
            num_virtual=num_virtual,
            has_keys=has_keys,
        )
        self.engine.give(request)
        self.tokens[request.id] = []
        return request.id

    def abort(self, request_id: int) -> None:
        self.engine.give(Abort(request_id))

    def step(self) -> None:
        report = self.engine.step()
        for token in report.tokens:
            self.tokens[token.id].append(token)
        for failure in report.failures:
            self.failures[failure.id] = failure

    def drain(self) -> None:
        while not self.engine.is_idle:
            steps = self.engine.num_steps
            self.step()
            if self.engine.num_steps == steps:
                # A thread that reads an adapter gets on faster when nobody turns round and round.
                select.select([self.engine.bell.fd], [], [], 0.002)
                self.engine.bell.hush()

    def answers(self, *ids: int) -> list[list[int]]:
        self.drain()
        return [[token.token for token in self.tokens[i]] for i in ids]


def drive(base: Path, store: Path, **options: Any) -> Driven:
    defaults = {"threads": 1, "cache_tokens": 4096, "debug_checks": True}
    engine, _ = build_engine(EngineConfig(base=str(base), adapter_store=store, **{**defaults, **options}))
    return Driven(engine)


@torch.inference_mode()
def reference_answer(
    model: PreTrainedModel | PeftModel, prompt: list[int], num_tokens: int, **options: Any
) -> list[int]:
    """transformers' greedy answer, the prompt cut off."""
    ids = torch.tensor([prompt])
    out: Tensor = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=num_tokens,
        do_sample=False,
        **options,
    )
    return out[0, len(prompt) :].tolist()
