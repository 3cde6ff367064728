"""Merging against transformers and PEFT: every kind over every recipe, and what is refused."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adapters.fingerprint import base_fingerprint
from adapters.merge.errors import MergeRefused
from tests.peft_kinds import KINDS, PROMPT_KINDS, RAW_KINDS
from tests.toys import make_adapter, make_base
from training.merge import MergeFailed, run
from training.merge_config import MergeConfig
from training.merge_report import REPORT_NAME, MergeReport

# With biases, or with added tokens, which PEFT saves twice over a tied base that came from a folder.
UNTIED = {"lora_bias", "lora_only_biases", "lora_all_biases", "dora_biases", "added_tokens"}
# Biases on all linears, most of which have none in any family.
HOMELESS = {"lora_bias", "beft"}
# New tokens that only an untied embedding learns.
ONE_TABLE = {("resized_trainable_tokens", "qwen2")}
REFUSED = {**PROMPT_KINDS, **RAW_KINDS, "vblora_topk": None}
EXACT = 1e-3

Merge = Callable[..., MergeReport]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """llama is tied and has no biases, qwen2 is untied and has some."""
    root = tmp_path_factory.mktemp("bases")
    return {family: make_base(root / family, family) for family in ("llama", "qwen2")}


@pytest.fixture
def merge(tmp_path: Path) -> Merge:
    def merged(base: Path, *adapters: Path, **settings: Any) -> MergeReport:
        config = MergeConfig(**{"out": tmp_path / "out", "to": "fp32", "trained_on": "none", **settings})
        return run(base, adapters, config, lambda done, total: None)

    return merged


def build(kind: str, base: Path, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        KINDS[kind](AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder)
    return folder


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    out: torch.Tensor = model(torch.randint(320, (4, 40), generator=generator)).logits
    return out


def under_peft(base: Path, adapter: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()


@pytest.mark.parametrize("recipe", ["none", "nf4"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in REFUSED])
def test_every_kind_that_is_a_change_of_weights_answers_as_peft_does(
    kind: str, recipe: str, bases: dict[str, Path], tmp_path: Path, merge: Merge
) -> None:
    # Which family takes which turn: both are seen with each recipe, and biases have a place in one alone.
    family = "qwen2" if kind in UNTIED or (len(kind) % 2 == 0) is (recipe == "nf4") else "llama"
    base = bases[family]
    if kind in HOMELESS:
        with pytest.raises(MergeRefused, match="biases to .* linears that have none in this base"):
            merge(base, build(kind, base, tmp_path / "adapter"), trained_on=recipe)
        return
    adapter = build(kind, base, tmp_path / "adapter")
    if (kind, family) in ONE_TABLE:
        with pytest.raises(MergeRefused, match="adds other tokens to .* train both"):
            merge(base, adapter, trained_on=recipe)
        return
    report = merge(base, adapter, trained_on=recipe)
    gate = report.gate
    assert gate is not None
    assert gate.max_logit_error < 5 * EXACT
    assert gate.recovered > 1 - 1e-6
    assert gate.kl_base > 1e-4
    assert (report.faults, report.losses) == ((), ())


@pytest.mark.parametrize("kind", ["lora", "dora", "lora_embedding", "saved_head", "token_rows", "ia3", "oft"])
def test_the_folder_alone_answers_as_base_and_adapter(
    kind: str, bases: dict[str, Path], tmp_path: Path, merge: Merge
) -> None:
    """Not by the gate's word: transformers loads what was written, PEFT what it was made of."""
    base = bases["llama"]
    adapter = build(kind, base, tmp_path / "adapter")
    report = merge(base, adapter)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    expected = logits(under_peft(base, adapter))
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=EXACT)
    assert not torch.allclose(logits(AutoModelForCausalLM.from_pretrained(base)), expected, atol=0.02)
    tied = json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"]
    assert tied is not report.untied


@pytest.mark.parametrize("kind", list(PROMPT_KINDS))
def test_virtual_tokens_are_no_weights(
    kind: str, bases: dict[str, Path], tmp_path: Path, merge: Merge
) -> None:
    adapter = build(kind, bases["llama"], tmp_path / "adapter")
    with pytest.raises(MergeRefused, match="virtual tokens stand before every prompt and change no weight"):
        merge(bases["llama"], adapter)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", list(RAW_KINDS))
def test_a_raw_start_of_singular_vectors_is_refused_and_not_told_to_merge(
    kind: str, bases: dict[str, Path], tmp_path: Path, merge: Merge
) -> None:
    adapter = build(kind, bases["llama"], tmp_path / "adapter")
    with pytest.raises(MergeRefused, match="path_initial_model_for_weight_conversion") as caught:
        merge(bases["llama"], adapter)
    assert "merge the adapter" not in str(caught.value)


def test_the_tokenizer_the_adapter_was_trained_with_goes_along(
    bases: dict[str, Path], tmp_path: Path, merge: Merge
) -> None:
    base = shutil.copytree(bases["llama"], tmp_path / "base")
    for name in ("tokenizer.json", "merges.txt", "chat_template.jinja"):
        (base / name).write_text("{}")
    adapter = make_adapter(base, tmp_path / "adapter")
    assert merge(base, adapter).passed
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"tokenizer.json", "merges.txt", "chat_template.jinja", "generation_config.json"} <= files
    from tests.server.front.tiny import make_tokenizer

    make_tokenizer().save(str(adapter / "tokenizer.json"))
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    assert merge(base, adapter, overwrite=True).passed
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert "merges.txt" not in files
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (adapter / name).read_bytes()


def test_the_route_comes_from_the_adapter_and_contradictions_stop(
    bases: dict[str, Path], tmp_path: Path, merge: Merge
) -> None:
    base = bases["llama"]
    adapter = make_adapter(base, tmp_path / "adapter")
    with pytest.raises(MergeRefused, match="add --trained-on none, nf4"):
        merge(base, adapter, trained_on=None)
    (adapter / "training.json").write_text(json.dumps({"config": {"quantization": "nf4"}}))
    assert merge(base, adapter, trained_on=None).trained_on == "nf4"
    story = {"format": "lorikeet-training-v1", "quantization": "int8"}
    (adapter / "lorikeet_manifest.json").write_text(json.dumps(story))
    assert merge(base, adapter, trained_on=None, overwrite=True).trained_on == "int8"
    with pytest.raises(MergeRefused, match="manifest says int8; --trained-on says nf4"):
        merge(base, adapter, trained_on="nf4", overwrite=True)
    story["quantization"] = "gptq"
    (adapter / "lorikeet_manifest.json").write_text(json.dumps(story))
    with pytest.raises(MergeRefused, match="'gptq'; only none, nf4, int8"):
        merge(base, adapter, trained_on=None, overwrite=True)


def test_another_base_than_the_trainers_is_refused(
    bases: dict[str, Path], tmp_path: Path, merge: Merge
) -> None:
    """Of the same shape, so that nothing but its weights tells."""
    adapter = make_adapter(bases["llama"], tmp_path / "adapter")
    story = {
        "format": "lorikeet-training-v1",
        "quantization": "nf4",
        "base_fingerprint": base_fingerprint(bases["llama"], "nf4"),
    }
    (adapter / "lorikeet_manifest.json").write_text(json.dumps(story))
    with pytest.raises(MergeRefused, match="merge it into the base it was trained on"):
        merge(make_base(tmp_path / "other", seed=5), adapter, trained_on=None)
    assert merge(bases["llama"], adapter, trained_on=None).passed


def test_every_tensor_of_the_adapter_must_have_a_place(
    bases: dict[str, Path], tmp_path: Path, merge: Merge
) -> None:
    adapter = make_adapter(bases["llama"], tmp_path / "adapter", target_modules=["q_proj"])
    file = adapter / "adapter_model.safetensors"
    stray = {"base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": torch.ones(8, 64)}
    save_file({**load_file(file), **stray}, file)
    with pytest.raises(MergeRefused, match="layers.9.*belongs to no targeted linear"):
        merge(bases["llama"], adapter)
    other = make_base(tmp_path / "other", hidden_size=128)
    with pytest.raises(MergeRefused, match="this base needs"):
        merge(other, make_adapter(bases["llama"], tmp_path / "again"))


def test_an_adapter_that_does_nothing_fails_and_leaves_only_its_report(
    bases: dict[str, Path], tmp_path: Path, merge: Merge
) -> None:
    adapter = make_adapter(bases["llama"], tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    save_file({name: tensor * ("lora_A" in name) for name, tensor in load_file(file).items()}, file)
    with pytest.raises(MergeFailed, match="base in disguise"):
        merge(bases["llama"], adapter, allow_lossy=True)
    assert not (tmp_path / "out").exists()
    report = json.loads((tmp_path / f"out.{REPORT_NAME}").read_text())
    assert report["passed"] is False
    assert report["gate"]["kl_base"] == 0


def test_a_folder_in_use_is_left_alone(bases: dict[str, Path], tmp_path: Path, merge: Merge) -> None:
    adapter = make_adapter(bases["llama"], tmp_path / "adapter")
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(MergeRefused, match="is not empty.*--overwrite"):
        merge(bases["llama"], adapter)
    assert (out / "thesis.txt").read_text() == "mine"


def test_the_report_names_every_file_by_its_sha256(
    bases: dict[str, Path], tmp_path: Path, merge: Merge
) -> None:
    import hashlib

    merge(bases["qwen2"], make_adapter(bases["qwen2"], tmp_path / "adapter"), shard_bytes=60_000)
    out = tmp_path / "out"
    report = json.loads((out / REPORT_NAME).read_text())
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}
    files.pop(REPORT_NAME)
    assert report["files"] == files
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 3
    assert report["changed_linears"] == len(report["linears"]) == 14
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(out)),
        logits(under_peft(bases["qwen2"], tmp_path / "adapter")),
        rtol=0,
        atol=EXACT,
    )
