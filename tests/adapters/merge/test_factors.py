"""Adapters out of a fine-tuned model, and out of larger adapters: the nearest of their rank."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from adapters.aggregate import aggregate
from adapters.errors import InvalidAdapter
from adapters.format import inspect
from adapters.merge.checkpoint import Checkpoint
from adapters.merge.errors import MergeRefused
from adapters.merge.factors import extract, write_adapter
from adapters.merge.sources import read_pairs
from tests.toys import make_adapter, make_base

Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("factors") / "base", "qwen3")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("factors") / "adapter", r=8, rank_pattern={"q_proj": 3})


@torch.inference_mode()
def logits(base: Path, adapter: Path | None = None) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = PeftModel.from_pretrained(model, adapter)
    out: Tensor = model.eval()(torch.arange(40).unsqueeze(0)).logits
    return out


def tuned_by(base: Path, adapter: Path, folder: Path) -> Path:
    """A fine-tuned model whose difference is the adapter's update, merged by PEFT over plain weights."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)
    return folder


def test_what_was_merged_comes_out_again(base: Path, adapter: Path, tmp_path: Path) -> None:
    tuned = tuned_by(base, adapter, tmp_path / "tuned")
    found = extract(Checkpoint(base), Checkpoint(tuned), rank=8, energy=None)
    assert found.pairs[Q].rank == 3, "the rank that is there, not the highest that was allowed"
    assert {pair.rank for pair in found.pairs.values()} == {3, 8}
    assert max(found.residuals.values()) < 1e-5
    assert found.left_out == ()
    out = tmp_path / "out"
    out.mkdir()
    write_adapter(out, found.pairs, str(base), found.residuals)
    assert inspect(out, Checkpoint(base).shapes(), 8).rank == 8
    torch.testing.assert_close(logits(base, out), logits(tuned), rtol=0, atol=1e-3)
    assert not torch.allclose(logits(base), logits(tuned), atol=0.05)


def test_a_lower_rank_is_the_best_there_is_and_says_what_it_lost(base: Path, tmp_path: Path) -> None:
    tuned = shutil.copytree(base, tmp_path / "tuned")
    tensors = load_file(base / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(tensors[f"{Q}.weight"].shape, generator=generator)
    tensors[f"{Q}.weight"] += delta
    tensors["model.norm.weight"] += 1
    save_file(tensors, tuned / "model.safetensors", {"format": "pt"})
    found = extract(Checkpoint(base), Checkpoint(tuned), rank=5, energy=None)
    singular = torch.linalg.svdvals(delta.double())
    best = float(singular[5:].square().sum().sqrt() / singular.square().sum().sqrt())
    pair = found.pairs[Q]
    lost = float((delta - pair.b @ pair.a).norm() / delta.norm())
    assert found.residuals[Q] == pytest.approx(best, rel=1e-5) == pytest.approx(lost, rel=1e-4)
    assert found.left_out == ("model.norm.weight",)
    by_energy = extract(Checkpoint(base), Checkpoint(tuned), rank=None, energy=0.5)
    assert by_energy.residuals[Q] ** 2 <= 0.5
    shares = singular.square().cumsum(0) / singular.square().sum()
    assert by_energy.pairs[Q].rank == int((shares < 0.5).sum()) + 1


def test_cutting_works_on_the_factors_alone_and_equals_the_svd_of_the_product(
    adapter: Path, base: Path, tmp_path: Path
) -> None:
    pairs, base_name = read_pairs(adapter)
    assert base_name == str(base)
    cut = aggregate([pairs], [1.0], rank=2)
    for name, pair in cut.pairs.items():
        whole = (pairs[name].b @ pairs[name].a).double()
        u, s, v = torch.linalg.svd(whole, full_matrices=False)
        best = (u[:, :2] * s[:2]) @ v[:2]
        torch.testing.assert_close((pair.b @ pair.a).double(), best, rtol=0, atol=1e-5)
    out = tmp_path / "out"
    out.mkdir()
    write_adapter(out, cut.pairs, base_name, cut.errors)
    again, _ = read_pairs(out)
    torch.testing.assert_close(again[Q].b @ again[Q].a, cut.pairs[Q].b @ cut.pairs[Q].a, rtol=0, atol=1e-6)


def test_what_is_no_difference_or_no_pair_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(MergeRefused, match="nothing to extract"):
        extract(Checkpoint(base), Checkpoint(base), rank=1, energy=None)
    other = make_base(tmp_path / "other", "qwen3", num_hidden_layers=1)
    with pytest.raises(MergeRefused, match="not of the shape"):
        extract(Checkpoint(base), Checkpoint(other), rank=1, energy=None)
    dora = make_adapter(base, tmp_path / "dora", use_dora=True)
    with pytest.raises((InvalidAdapter, MergeRefused), match="not only low-rank pairs"):
        read_pairs(dora)
