"""The fingerprint tells bases apart, and only bases."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapters.fingerprint import base_fingerprint, tokenizer_hashes


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    config = {"model_type": "llama", "hidden_size": 8, "transformers_version": "5.0"}
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(64, 64, generator=generator) for name in ("a", "b")}
    save_file({**tensors, "small": torch.randn(3, generator=generator)}, folder / "model.safetensors")
    return folder


def test_it_is_of_the_content_alone(base: Path, tmp_path: Path) -> None:
    first = base_fingerprint(base, "nf4")
    other = Path(shutil.copytree(base, tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    (other / "model.safetensors").unlink()
    save_file({"b": tensors["b"]}, other / "model-1.safetensors")
    save_file({"small": tensors["small"], "a": tensors["a"]}, other / "model-2.safetensors")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "transformers_version": "6.0"}))
    assert base_fingerprint(other, "nf4") == first
    assert len(first) == 64


def test_other_weights_shapes_settings_and_recipes_are_other_bases(base: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    changes = [
        {**tensors, "a": tensors["a"] + 1e-3},
        {**tensors, "a": tensors["a"].reshape(32, 128)},
        {**tensors, "a": tensors["b"], "b": tensors["a"]},
        {**tensors, "small": tensors["small"] * 2},
        {"a": tensors["a"], "b": tensors["b"]},
    ]
    found = {base_fingerprint(base, "nf4"), base_fingerprint(base, "int8")}
    for changed in changes:
        save_file({name: tensor.contiguous() for name, tensor in changed.items()}, base / "model.safetensors")
        found.add(base_fingerprint(base, "nf4"))
    (base / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 9}))
    found.add(base_fingerprint(base, "nf4"))
    assert len(found) == 8


def test_a_folder_without_weights_is_no_base(base: Path) -> None:
    (base / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no tensors"):
        base_fingerprint(base, "nf4")


def test_a_template_has_one_hash_wherever_it_is_kept(base: Path) -> None:
    assert tokenizer_hashes(base) == {}
    (base / "tokenizer.json").write_text("{}")
    (base / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ 'é' }}\n"}))
    kept = tokenizer_hashes(base)
    assert kept["tokenizer_sha256"] == hashlib.sha256(b"{}").hexdigest()
    (base / "chat_template.jinja").write_text("{{ 'é' }}\n", encoding="utf-8")
    (base / "tokenizer_config.json").write_text(json.dumps({"chat_template": "another"}))
    assert tokenizer_hashes(base) == kept
    (base / "chat_template.jinja").unlink()
    assert tokenizer_hashes(base)["chat_template_sha256"] != kept["chat_template_sha256"]
