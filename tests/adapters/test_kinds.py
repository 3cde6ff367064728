"""Every kind that PEFT makes: its normal form computes what PEFT computes from the same folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from adapters import Manifest, inspect
from adapters.normal import AdapterWeights
from adapters.prepared import load, prepare
from tests.dense import base_of, logits
from tests.peft_kinds import (
    ADDED_TOKENS,
    GAIN_KINDS,
    KINDS,
    LORA_KINDS,
    PRODUCT_KINDS,
    PROMPT_KINDS,
    TOKEN_KINDS,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning"
)
VOCAB, MAX_RANK = 32, 16
IDS = torch.tensor([[3, 7, 5, 11, 2, 9, 1]])
# Of full rank, or not repeatable: PEFT's own layers say so, and MERGE or convert is the way out.
REFUSED = ["oft", "boft", "fourierft", "randlora", "road", "c3a", "shira", "vblora_topk"]
BASES = [
    pytest.param(tied, bias, id=f"{'tied' if tied else 'untied'}-{'biases' if bias else 'plain'}")
    for tied in (False, True)
    for bias in (False, True)
]
SERVED = [
    *LORA_KINDS,
    *TOKEN_KINDS,
    *GAIN_KINDS,
    *(name for name in PRODUCT_KINDS if name not in REFUSED),
    *PROMPT_KINDS,
]


def tiny(tied: bool, bias: bool) -> LlamaForCausalLM:
    shape = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCAB,
        tie_word_embeddings=tied,
        attention_bias=bias,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(shape).eval()
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn(parameter.shape))
    return model


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def take(
    folder: Path, tied: bool, bias: bool, max_rank: int = MAX_RANK
) -> tuple[Manifest, AdapterWeights, float]:
    """As a server takes it: checked, prepared where that is needed, loaded; and the measured error."""
    base = base_of(tiny(tied, bias))
    manifest = inspect(folder, base.shapes, max_rank)
    error = 0.0 if manifest.direct else prepare(folder, manifest, base, max_rank).error
    return manifest, load(folder, manifest, base.shapes, max_rank), error


@torch.inference_mode()
def peft_logits(folder: Path, tied: bool, bias: bool, added: int = 0) -> torch.Tensor:
    base = tiny(tied, bias)
    if added:
        base.resize_token_embeddings(VOCAB + added, mean_resizing=False)
    model = PeftModel.from_pretrained(base, folder).eval()
    found: Any = model(IDS)
    return found.logits[:, -IDS.shape[1] :, :VOCAB]


@pytest.mark.parametrize(("tied", "bias"), BASES)
@pytest.mark.parametrize("kind", SERVED)
def test_the_normal_form_is_what_peft_computes(kind: str, tied: bool, bias: bool, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    KINDS[kind](tiny(tied, bias), folder)
    manifest, weights, error = take(folder, tied, bias)
    expected = peft_logits(folder, tied, bias, ADDED_TOKENS if kind == "added_tokens" else 0)
    plain = tiny(tied, bias)(IDS).logits.detach()
    assert (expected - plain).abs().max() > 1e-3, "the adapter must do something"
    found = logits(tiny(tied, bias), weights, IDS)[..., :VOCAB]
    assert error <= 1e-6
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max().clamp(min=1)))
