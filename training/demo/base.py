"""Builds the demo base: a small Llama trained from scratch on the demo's world, as an ordinary HF folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.demo.pretrain import Schedule, packed, pretrain
from training.demo.tokenizer import END, train_tokenizer
from training.demo.world import Document, documents
from training.progress import Report
from training.quiet import quiet

RECIPE_FILE = "recipe.json"


@dataclass(frozen=True, slots=True)
class BaseRecipe:
    """All that decides the base's weights. Sizes are multiples of 64, as NF4 blocks like them."""

    num_documents: int = 14000
    vocab_size: int = 2048
    hidden_size: int = 192
    intermediate_size: int = 512
    num_layers: int = 4
    num_heads: int = 6
    num_kv_heads: int = 2
    max_positions: int = 1024
    # HF's 0.02 suits wide models; on a narrow one attention stays uniform for a hundred steps.
    initializer_range: float = 0.06
    schedule: Schedule = Schedule()
    seed: int = 7


def build_base(folder: Path, report: Report | None = None, recipe: BaseRecipe | None = None) -> Path:
    """Trains the base into `folder`, unless the same recipe stands there complete; returns `folder`."""
    recipe = recipe or BaseRecipe()
    texts = list(islice(documents(recipe.seed), recipe.num_documents))
    fingerprint = _fingerprint(recipe, texts)
    if _built(folder) == fingerprint:
        return folder
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with quiet():
            _build(partial, texts, recipe, report)
        (partial / RECIPE_FILE).write_text(
            json.dumps({"fingerprint": fingerprint, **asdict(recipe)}, indent=2)
        )
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _fingerprint(recipe: BaseRecipe, texts: list[Document]) -> str:
    """Covers the words as well as the numbers: an edited template means another base."""
    digest = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode())
    for document in texts:
        digest.update(repr(document).encode())
    return digest.hexdigest()


def _built(folder: Path) -> str | None:
    """The fingerprint of what stands in `folder`, if anything complete does."""
    try:
        fingerprint = json.loads((folder / RECIPE_FILE).read_text())["fingerprint"]
    except (OSError, ValueError, KeyError):
        return None
    return fingerprint if isinstance(fingerprint, str) else None


def _build(folder: Path, texts: list[Document], recipe: BaseRecipe, report: Report | None) -> None:
    words = [document.text or "\n".join(content for _, content in document.turns) for document in texts]
    tokenizer = train_tokenizer(words, recipe.vocab_size, recipe.max_positions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = LlamaForCausalLM(_llama(recipe, tokenizer))
        pretrain(model, packed(_encoded(texts, tokenizer), recipe.schedule), recipe.schedule, report)
    model.generation_config = _generation(tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder, save_jinja_files=False)


def _encoded(texts: list[Document], tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    rendered = [
        tokenizer.apply_chat_template(document.messages, tokenize=False)
        if document.turns
        else f"{tokenizer.bos_token}{document.text}{tokenizer.eos_token}"
        for document in texts
    ]
    encoded: list[list[int]] = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    return encoded


def _llama(recipe: BaseRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        # The merges may run out early on a small world; the padding to 64 keeps kernels happy.
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_kv_heads,
        head_dim=recipe.hidden_size // recipe.num_heads,
        max_position_embeddings=recipe.max_positions,
        initializer_range=recipe.initializer_range,
        tie_word_embeddings=True,
        **_special_ids(tokenizer),
    )


def _generation(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    return GenerationConfig(**_special_ids(tokenizer))


def _special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | list[int]]:
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END)]
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": ends,
        "pad_token_id": tokenizer.pad_token_id,
    }
