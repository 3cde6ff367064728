"""Every kind that PEFT makes: its normal form computes what PEFT computes from the same folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from adapters import InvalidAdapter
from tests.adapters.small import VOCAB, take, take_over, tiny
from tests.dense import logits
from tests.peft_kinds import (
    ADDED_TOKENS,
    GAIN_KINDS,
    KINDS,
    LORA_KINDS,
    PRODUCT_KINDS,
    PROMPT_KINDS,
    TOKEN_KINDS,
    UNSERVED_KINDS,
)
from tests.toys import make_model

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning"
)
IDS = torch.tensor([[3, 7, 5, 11, 2, 9, 1]])
ADDED_IDS = torch.tensor([[3, VOCAB, 7, VOCAB + 2, 5]])
GROWN = ("added_tokens", "resized", "resized_rows", "resized_trainable_tokens")
BASES = [
    pytest.param(tied, bias, id=f"{'tied' if tied else 'untied'}-{'biases' if bias else 'plain'}")
    for tied, bias in ((False, True), (True, False), (False, False), (True, True))
]
SERVED = [*LORA_KINDS, *TOKEN_KINDS, *GAIN_KINDS, *PRODUCT_KINDS, *PROMPT_KINDS]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@torch.inference_mode()
def peft_logits(
    folder: Path, tied: bool, bias: bool, ids: torch.Tensor = IDS, added: int = 0
) -> torch.Tensor:
    """[1, length, vocab] of the folder, as PEFT loads it over a fresh base."""
    base = tiny(tied, bias)
    if added:
        base.resize_token_embeddings(VOCAB + added, mean_resizing=False)
    found: torch.Tensor = PeftModel.from_pretrained(base, folder).eval()(ids).logits
    return found[:, -ids.shape[1] :]


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = 1e-5 * float(expected.abs().max().clamp(min=1))
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("tied", "bias"), BASES[:2])
@pytest.mark.parametrize("kind", SERVED)
def test_the_normal_form_is_what_peft_computes(kind: str, tied: bool, bias: bool, tmp_path: Path) -> None:
    check_parity(kind, tied, bias, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(("tied", "bias"), BASES[2:])
@pytest.mark.parametrize("kind", SERVED)
def test_the_same_over_the_other_bases(kind: str, tied: bool, bias: bool, tmp_path: Path) -> None:
    check_parity(kind, tied, bias, tmp_path)


def check_parity(kind: str, tied: bool, bias: bool, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    KINDS[kind](tiny(tied, bias), folder)
    _, weights, error = take(folder, tied, bias)
    expected = peft_logits(folder, tied, bias, added=ADDED_TOKENS if kind in GROWN else 0)[..., :VOCAB]
    plain = tiny(tied, bias)(IDS).logits.detach()
    assert (expected - plain).abs().max() > 1e-3, "the adapter must do something"
    assert error <= 1e-6
    assert_close(logits(tiny(tied, bias), weights, IDS)[..., :VOCAB], expected)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", GROWN)
def test_added_tokens_are_read_and_where_they_were_trained_written(
    kind: str, tied: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    KINDS[kind](tiny(tied), folder)
    manifest, weights, _ = take(folder, tied)
    assert manifest.top_token == VOCAB + ADDED_TOKENS - 1
    expected = peft_logits(folder, tied, False, ADDED_IDS, ADDED_TOKENS)
    found = logits(tiny(tied), weights, ADDED_IDS)
    # Rows of an untied head that nobody trained are whatever the trainer's resize drew: not in the file.
    has_head = tied or kind in ("resized", "resized_rows")
    known = VOCAB + ADDED_TOKENS if has_head else VOCAB
    assert found.shape[-1] == known
    assert_close(found, expected[..., :known])


def test_two_versions_of_one_table_are_refused(tmp_path: Path) -> None:
    """Over a tied base PEFT would take whichever end it reads last."""
    folder = tmp_path / "adapter"
    KINDS["resized_rows"](tiny(tied=True), folder)
    state = load_file(folder / "adapter_model.safetensors")
    state["base_model.model.lm_head.token_adapter.trainable_tokens_delta"] += 1
    save_file(state, folder / "adapter_model.safetensors")
    with pytest.raises(InvalidAdapter, match="one table for both; save the adapter again"):
        take(folder, tied=True)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize(
    "kind", ["dora", "lora_all_biases", "saved_norms", "ia3_feedforward", "prefix_tuning"]
)
def test_other_families(kind: str, family: str, tmp_path: Path) -> None:
    """Biases of q, k and v alone, heads of another width than hidden / heads, norms of q and k."""
    folder = tmp_path / "adapter"
    KINDS[kind](make_model(family), folder)
    _, weights, _ = take_over(make_model(family), folder)
    with torch.inference_mode():
        found: Any = PeftModel.from_pretrained(make_model(family), folder).eval()(IDS)
    assert_close(logits(make_model(family), weights, IDS), found.logits[:, -IDS.shape[1] :])


def test_a_conversion_is_off_by_what_it_says(tmp_path: Path) -> None:
    """LoHa of rank 9 whose factors fall fast, served at rank 4."""
    folder = tmp_path / "adapter"
    model = KINDS["loha"](tiny(), folder)
    state = load_file(folder / "adapter_model.safetensors")
    for name, tensor in state.items():
        if name.endswith("_a"):
            state[name] = tensor * torch.tensor([1.0, 1e-2, 1e-4])
    save_file(state, folder / "adapter_model.safetensors")
    set_peft_model_state_dict(model, state)
    _, weights, error = take(folder, max_rank=4)
    assert 1e-6 < error < 1e-3
    worst = 0.0
    for name, change in weights.linears.items():
        exact = model.get_submodule(f"base_model.model.{name}").get_delta_weight("default").detach()
        pair = change.low_rank
        assert pair is not None
        assert pair.rank <= 4
        worst = max(worst, float((pair.b @ pair.a - exact).norm() / exact.norm()))
    assert worst == pytest.approx(error, rel=0.05)
    expected = peft_logits(folder, False, False)
    plain = tiny()(IDS).logits.detach()
    served = logits(tiny(), weights, IDS)
    assert (served - expected).norm() <= 5 * error * (expected - plain).norm()


def test_a_whole_table_that_is_the_bases_own_costs_nothing(tmp_path: Path) -> None:
    KINDS["lora_embedding"](tiny(), tmp_path / "adapter")
    manifest, weights, _ = take(tmp_path / "adapter")
    assert not manifest.direct
    assert weights.embedding is not None
    assert weights.embedding.full is None
    assert weights.embedding.rows is None


def test_what_is_plain_needs_no_preparation(tmp_path: Path) -> None:
    direct = {"lora", "ia3", "token_rows", "saved_norms", "prompt_tuning", "prefix_tuning", "adalora"}
    for kind in sorted(direct | {"dora", "loha", "lora_only_biases"}):
        KINDS[kind](tiny(bias=True), tmp_path / kind)
        assert take(tmp_path / kind, bias=True)[0].direct == (kind in direct), kind


def test_kinds_that_are_not_served_say_why(tmp_path: Path) -> None:
    for kind, builder in UNSERVED_KINDS.items():
        builder(tiny(), tmp_path / kind)
        with pytest.raises(InvalidAdapter, match="merge|convert|save it with"):
            take(tmp_path / kind)
