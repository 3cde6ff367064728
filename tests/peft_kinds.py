"""Builders of PEFT adapters of every kind: name -> builder(base model, folder) -> the PEFT model it saved.

Each is made by PEFT itself, moved off its initial values, and saved by PEFT, so the model that comes back
is the oracle for what the folder means. The base model is taken over by PEFT: hand in one that is yours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import peft
import torch
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel

Builder = Callable[[PreTrainedModel, Path], PeftModel]

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
LINEARS = [*ATTENTION, *MLP]
CAUSAL: dict[str, Any] = {"task_type": "CAUSAL_LM"}
PAIR: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": LINEARS, **CAUSAL}
ADDED_TOKENS = 3
_SPREAD = 0.08


def randomise(model: torch.nn.Module, seed: int = 1) -> None:
    """Moves every trainable number off its start, far enough that each part of a kind shows in the logits."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            spread = max(_SPREAD, 0.2 * float(parameter.detach().abs().mean()))
            parameter.data.add_(spread * noise.to(parameter.dtype))


def save(model: PeftModel, folder: Path) -> PeftModel:
    """Randomises and saves; what PEFT warns about is what the tests are for."""
    randomise(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(str(folder))
    return model.eval()


def build(base: PreTrainedModel, config: PeftConfig, folder: Path) -> PeftModel:
    """An adapter by any configuration."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return save(peft.get_peft_model(base, config), folder)


def _of(make: Callable[[], PeftConfig]) -> Builder:
    return lambda base, folder: build(base, make(), folder)


def _lora(**options: Any) -> Builder:
    # Copied, because PEFT writes into the lists that it is given.
    return _of(lambda: peft.LoraConfig(**deepcopy({**PAIR, **options})))


def _on(kind: Any, **options: Any) -> Builder:
    return _of(lambda: kind(**deepcopy({"target_modules": LINEARS, **CAUSAL, **options})))


def _prompt(kind: Any, **options: Any) -> Builder:
    return _of(lambda: kind(**{"num_virtual_tokens": 5, **CAUSAL, **options}))


def _added_tokens(base: PreTrainedModel, folder: Path) -> PeftModel:
    """The vocabulary grows and the new rows are trained."""
    old = base.get_input_embeddings().weight.shape[0]
    base.resize_token_embeddings(old + ADDED_TOKENS, mean_resizing=False)
    added = list(range(old, old + ADDED_TOKENS))
    return build(base, peft.LoraConfig(**PAIR, trainable_token_indices={"embed_tokens": added}), folder)


def _resized(config: Callable[[int], Any]) -> Builder:
    """The vocabulary grows: PEFT saves both tables whole. config: of the first token that is new."""

    def make(base: PreTrainedModel, folder: Path) -> PeftModel:
        plain = folder.parent / f"{folder.name}-base"
        base.save_pretrained(plain)
        base.name_or_path = str(plain)
        old = base.config.vocab_size
        base.resize_token_embeddings(old + ADDED_TOKENS, mean_resizing=False)
        return build(base, config(old), folder)

    return make


def _pruned(base: PreTrainedModel, folder: Path) -> PeftModel:
    """AdaLoRA at its end, when a mask says which ranks each linear keeps, down to none."""
    config = peft.AdaLoraConfig(
        target_modules=["q_proj", "up_proj"], target_r=2, init_r=4, lora_alpha=6, total_step=10, **CAUSAL
    )
    torch.manual_seed(0)
    model = peft.get_peft_model(base, config)
    masks = [[True, False, True, True], [False] * 4, [True] * 4, [False, True, False, False]]
    names = [name for name, _ in base.named_modules() if name.endswith(("q_proj", "up_proj"))]
    config.rank_pattern = {f"{name}.lora_E": mask for name, mask in zip(names, masks, strict=True)}
    return save(model, folder)


def _per_linear(base: PreTrainedModel, folder: Path) -> PeftModel:
    """EVA's own rank pattern: a rank for each full name, and A that came from data."""
    names = [name for name, _ in base.named_modules() if name.endswith(tuple(LINEARS))]
    ranks = {name: 1 + i % 4 for i, name in enumerate(names)}
    config = peft.LoraConfig(**PAIR, rank_pattern=ranks, alpha_pattern=ranks)
    return build(base, config, folder)


def _raw_init(init: str) -> Builder:
    """A and B of the base's own singular vectors: they fit only the base that PEFT rewrote."""
    return _lora(init_lora_weights=init)


def _converted_pissa(base: PreTrainedModel, folder: Path) -> PeftModel:
    """The same, saved as the difference to its own start: rank 2 r on the untouched base."""
    torch.manual_seed(0)
    start = folder.parent / f"{folder.name}-start"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(base, peft.LoraConfig(**{**PAIR, "init_lora_weights": "pissa"}))
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(str(start))
        model.peft_config["default"].init_lora_weights = "pissa"
        randomise(model)
        model.save_pretrained(str(folder), path_initial_model_for_weight_conversion=str(start))
    return model.eval()


LORA_KINDS: dict[str, Builder] = {
    "lora": _lora(),
    "lora_rs": _lora(use_rslora=True),
    "lora_patterns": _lora(rank_pattern={"q_proj": 2}, alpha_pattern={r"layers\.1\..*up_proj": 3}),
    "lora_per_linear": _per_linear,
    "lora_bias": _lora(lora_bias=True),
    "lora_only_biases": _lora(bias="lora_only", target_modules=["q_proj", "v_proj"]),
    "lora_all_biases": _lora(bias="all", target_modules=["q_proj"]),
    "mica": _lora(init_lora_weights="mica"),
    "orthogonal": _lora(init_lora_weights="orthogonal"),
    "pissa_converted": _converted_pissa,
    "dora": _lora(use_dora=True),
    "dora_rs": _lora(use_dora=True, use_rslora=True, target_modules=["q_proj", "down_proj"]),
    "dora_tables": _lora(use_dora=True, target_modules=["v_proj", "embed_tokens", "lm_head"]),
    "dora_biases": _lora(use_dora=True, bias="lora_only", target_modules=["q_proj", "v_proj"]),
}
TOKEN_KINDS: dict[str, Builder] = {
    "lora_embedding": _lora(target_modules=["q_proj", "embed_tokens"]),
    "lora_head": _lora(target_modules=["q_proj", "lm_head"]),
    "lora_embedding_and_head": _lora(target_modules=["v_proj", "embed_tokens", "lm_head"]),
    "saved_head": _lora(modules_to_save=["lm_head"]),
    "saved_embedding": _lora(modules_to_save=["embed_tokens"]),
    "saved_both": _lora(modules_to_save=["embed_tokens", "lm_head"]),
    "saved_tied": _lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "lora_tied": _lora(target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True),
    "resized": _resized(lambda old: peft.LoraConfig(**PAIR)),
    # One of the new tokens is not trained, and an old one is.
    "resized_rows": _resized(
        lambda old: peft.LoraConfig(**PAIR, trainable_token_indices={"embed_tokens": [5, old, old + 1]})
    ),
    "resized_trainable_tokens": _resized(
        lambda old: peft.TrainableTokensConfig(token_indices=[old + 1, 5, old], **CAUSAL)
    ),
    "saved_norms": _lora(modules_to_save=["input_layernorm", "norm"]),
    "token_rows": _lora(trainable_token_indices=[3, 7, 11]),
    "token_rows_of_both": _lora(trainable_token_indices={"embed_tokens": [5, 2], "lm_head": [1, 9]}),
    "added_tokens": _added_tokens,
    "trainable_tokens": _of(lambda: peft.TrainableTokensConfig(token_indices=[3, 7, 11], **CAUSAL)),
}
GAIN_KINDS: dict[str, Builder] = {
    "ia3": _on(peft.IA3Config, target_modules=["k_proj", "v_proj"], feedforward_modules=[]),
    "ia3_feedforward": _on(
        peft.IA3Config, target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "beft": _on(peft.BeftConfig, target_modules=["v_proj", "up_proj"]),
    "ln_tuning": _of(lambda: peft.LNTuningConfig(target_modules=["input_layernorm", "norm"], **CAUSAL)),
}
PRODUCT_KINDS: dict[str, Builder] = {
    "adalora": _on(peft.AdaLoraConfig, target_r=3, init_r=4, lora_alpha=6, total_step=10),
    "adalora_pruned": _pruned,
    "vera": _on(peft.VeraConfig, r=6, target_modules=["q_proj", "k_proj"], d_initial=0.5),
    "vera_unsaved": _on(
        peft.VeraConfig, r=6, target_modules=["q_proj"], d_initial=0.5, save_projection=False
    ),
    "loha": _on(peft.LoHaConfig, r=3, alpha=5),
    "loha_patterns": _on(
        peft.LoHaConfig, r=3, alpha=5, rank_pattern={"q_proj": 2}, alpha_pattern={"up_proj": 2}
    ),
    "lokr": _on(peft.LoKrConfig, r=2, alpha=3),
    "lokr_both": _on(peft.LoKrConfig, r=2, alpha=3, decompose_both=True, decompose_factor=8),
    "lokr_factor": _on(peft.LoKrConfig, r=64, alpha=64, decompose_factor=4),
    "miss": _on(peft.MissConfig, r=4),
    "miss_mini": _on(peft.MissConfig, r=4, mini_r=2, init_weights="mini"),
    "miss_bat": _on(peft.MissConfig, r=4, init_weights="bat"),
    "hira": _on(peft.HiraConfig, r=2),
    "delora": _on(peft.DeloraConfig, r=4, delora_lambda=3),
    "gralora": _on(peft.GraloraConfig, r=4, alpha=6, gralora_k=2),
    "gralora_hybrid": _on(peft.GraloraConfig, r=4, alpha=6, gralora_k=2, hybrid_r=2),
    "vblora": _on(peft.VBLoRAConfig, r=4, num_vectors=12, vector_length=8, topk=2),
    "hra": _on(peft.HRAConfig, r=4),
    "hra_gs": _on(peft.HRAConfig, r=4, apply_GS=True),
}
PROMPT_KINDS: dict[str, Builder] = {
    "prompt_tuning": _prompt(peft.PromptTuningConfig),
    "p_tuning": _prompt(peft.PromptEncoderConfig, encoder_hidden_size=12),
    "p_tuning_lstm": _prompt(
        peft.PromptEncoderConfig, encoder_hidden_size=12, encoder_reparameterization_type="LSTM"
    ),
    "prefix_tuning": _prompt(peft.PrefixTuningConfig),
    "cartridge": _prompt(peft.CartridgeConfig, num_frozen_tokens=2),
    "prefix_projection": _prompt(peft.PrefixTuningConfig, prefix_projection=True, encoder_hidden_size=12),
}
RAW_KINDS: dict[str, Builder] = {
    "pissa": _raw_init("pissa"),
    "pissa_niter": _raw_init("pissa_niter_2"),
    "olora": _raw_init("olora"),
}
# Of full rank, or saved without what is needed.
UNSERVED_KINDS: dict[str, Builder] = {
    "oft": _on(peft.OFTConfig, oft_block_size=8),
    "boft": _on(peft.BOFTConfig, boft_block_size=4),
    "fourierft": _on(peft.FourierFTConfig, n_frequency=20),
    "randlora": _on(peft.RandLoraConfig, r=4),
    "road": _on(peft.RoadConfig, group_size=8),
    "c3a": _on(peft.C3AConfig, block_size=8),
    "shira": _on(peft.ShiraConfig, r=2),
    "vblora_topk": _on(
        peft.VBLoRAConfig, r=4, num_vectors=12, vector_length=8, topk=2, save_only_topk_weights=True
    ),
}
KINDS: dict[str, Builder] = {
    **LORA_KINDS,
    **TOKEN_KINDS,
    **GAIN_KINDS,
    **PRODUCT_KINDS,
    **PROMPT_KINDS,
    **RAW_KINDS,
    **UNSERVED_KINDS,
}
