"""Merging and 4 bits: what is erased is refused, and no live quantized module is ever merged into."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adapters.merge.checkpoint import Checkpoint
from tests.peft_kinds import KINDS
from tests.toys import make_adapter, make_base
from training.merge import MergeFailed, run
from training.merge_config import MergeConfig
from training.merge_gate import Seen, judge
from training.merge_report import REPORT_NAME, MergeReport


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("quantized") / "base")


@pytest.fixture(scope="module")
def strong(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("quantized") / "strong", r=8, lora_alpha=32)


@pytest.fixture(scope="module")
def faint(strong: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same adapter at a two-hundredth: of the size of a trained one beside its weights."""
    folder = tmp_path_factory.mktemp("quantized") / "faint"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((strong / "adapter_config.json").read_bytes())
    tensors = load_file(strong / "adapter_model.safetensors")
    scaled = {name: tensor / 200 if "lora_B" in name else tensor for name, tensor in tensors.items()}
    save_file(scaled, folder / "adapter_model.safetensors")
    return folder


def merge(base: Path, adapter: Path, out: Path, **settings: Any) -> MergeReport:
    config = MergeConfig(**{"out": out, "trained_on": "nf4", **settings})
    return run(base, [adapter], config, lambda done, total: None)


def test_a_small_change_into_nf4_is_erased_and_therefore_refused(
    base: Path, faint: Path, tmp_path: Path
) -> None:
    """Even when loss is allowed: what answers as the base is no merge."""
    out = tmp_path / "out"
    with pytest.raises(MergeFailed, match="no nearer to base and adapter than the base alone"):
        merge(base, faint, out, to="nf4", allow_lossy=True)
    with pytest.raises(MergeFailed, match="of the codes of the changed linears are the base's own"):
        merge(base, faint, out, to="nf4")
    assert not out.exists()
    report = json.loads((tmp_path / f"out.{REPORT_NAME}").read_text())
    assert report["mean_unchanged_codes"] > 0.99
    assert report["mean_recovered"] < 0.2
    assert all(0.97 < linear["unchanged"] <= 1 for linear in report["linears"])
    kept = merge(base, faint, out, to="fp32")
    assert kept.gate is not None and kept.gate.recovered > 0.999
    assert not (tmp_path / f"out.{REPORT_NAME}").exists(), "a report of a failure that is mended goes away"


def test_a_large_change_into_nf4_passes_or_says_what_it_lost(
    base: Path, strong: Path, tmp_path: Path
) -> None:
    report = merge(base, strong, tmp_path / "out", to="nf4", allow_lossy=True)
    assert report.passed and report.gate is not None
    assert 0.3 < report.gate.recovered < 0.999
    strict = {"min_recovered": report.gate.recovered + 0.001, "overwrite": True}
    with pytest.raises(MergeFailed, match="of the adapter's effect on the logits is left, less than"):
        merge(base, strong, tmp_path / "out", to="nf4", **strict)
    assert (tmp_path / "out/config.json").exists(), "what stood there stays"
    lenient = {"min_recovered": report.gate.recovered - 0.001, "overwrite": True}
    assert merge(base, strong, tmp_path / "out", to="nf4", **lenient).losses == ()


@pytest.mark.parametrize("kind", ["lora", "dora", "oft"])
def test_no_quantized_module_is_ever_made(
    kind: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bitsandbytes repacks live weights on some CPUs, and PEFT dequantizes what is no longer there."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a live quantized module")

    KINDS[kind](AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path / "adapter")
    for module in ("Linear4bit", "Linear8bitLt"):
        monkeypatch.setattr(getattr(bitsandbytes.nn, module), "__init__", refuse)
    report = merge(base, tmp_path / "adapter", tmp_path / "out")
    assert report.gate is not None and report.gate.recovered > 0.99


@pytest.mark.parametrize("target", ["nf4", "int8"])
def test_quantized_folders_are_what_transformers_reads(
    target: str, base: Path, strong: Path, tmp_path: Path
) -> None:
    merge(base, strong, tmp_path / "out", to=target, allow_lossy=True)
    saved = Checkpoint(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    layer = model.model.layers[1].mlp.down_proj
    assert type(layer).__name__ == {"nf4": "Linear4bit", "int8": "Linear8bitLt"}[target]
    ours = saved.dense("model.layers.1.mlp.down_proj.weight")
    if target == "nf4":
        theirs = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        torch.testing.assert_close(ours, theirs.float(), rtol=5e-3, atol=1e-4)
    else:
        assert torch.equal(layer.weight.data, saved["model.layers.1.mlp.down_proj.weight"])
        assert torch.equal(layer.weight.SCB, saved["model.layers.1.mlp.down_proj.SCB"])


def test_the_mirror_an_adapter_of_the_plain_base_is_merged_into_the_plain_base(
    base: Path, strong: Path, tmp_path: Path
) -> None:
    onto_own = merge(base, strong, tmp_path / "own", trained_on="none", to="fp32")
    onto_rounded = merge(base, strong, tmp_path / "rounded", trained_on="nf4", to="fp32")
    name = "model.layers.0.mlp.up_proj.weight"
    own, rounded = (load_file(tmp_path / part / "model.safetensors")[name] for part in ("own", "rounded"))
    plain, adapter = Checkpoint(base)[name], load_file(strong / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.0.mlp.up_proj.lora_"
    delta = 4 * adapter[f"{prefix}B.weight"] @ adapter[f"{prefix}A.weight"]
    torch.testing.assert_close(own, plain + delta, rtol=0, atol=1e-5)
    assert float((rounded - plain - delta).norm() / plain.norm()) > 0.03
    assert onto_own.trained_on == "none" and onto_rounded.trained_on == "nf4"


def test_verdicts_are_arithmetic() -> None:
    live = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    base, half = torch.zeros(2, 2), live / 2
    verdict = judge(Seen(live, 1.0), Seen(half, 1.5), Seen(base, 2.0))
    p = live.double().softmax(-1)
    expected = float((p * (p.log() - half.double().log_softmax(-1))).sum(-1).mean())
    assert verdict.kl_merged == pytest.approx(expected, rel=1e-9)
    assert (verdict.max_logit_error, verdict.mean_logit_error) == (1.0, 0.375)
    assert (verdict.top1_merged, verdict.recovered_loss) == (1.0, 0.5)
    assert verdict.recovered == pytest.approx(1 - verdict.kl_merged / verdict.kl_base)
    assert verdict.faults() == []
    assert len(verdict.losses(0.9)) == 2
    same = judge(Seen(live, None), Seen(base, None), Seen(base, None))
    assert "no nearer to base and adapter" in same.faults()[0]
    assert same.recovered_loss is None and same.recovered == 0
    worse = judge(Seen(live, 3.0), Seen(live, 3.0), Seen(base, 2.0))
    assert worse.recovered_loss is None, "an adapter that does not improve the loss has no gain to lose"
