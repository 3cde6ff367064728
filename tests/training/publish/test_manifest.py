"""A server that runs checks every field of a run's manifest, and says which one is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from peft.tuners.lora import LoraLayer

from lorikeet import Client, InvalidRequest
from training.configfile import parse_config
from training.manifest import rows_digest
from training.publish.trained import open_trained
from training.train import run

Colors = Callable[..., Path]
UP = "model.layers.0.mlp.up_proj"


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "lorikeet_manifest.json").read_text())
    return found


def test_it_tells_how_the_adapter_was_made_and_comes_back_from_the_server(
    client: Client, colors: Colors, base: Path
) -> None:
    told, trained = manifest(colors(6)), open_trained(colors(6))
    layers = {
        name: module.scaling["default"]
        for name, module in trained.model.get_base_model().named_modules()
        if isinstance(module, LoraLayer)
    }
    assert told["scales"] == layers and len(layers) == 14
    assert told["tokenizer_sha256"] == hashlib.sha256((base / "tokenizer.json").read_bytes()).hexdigest()
    assert told["eval_sha256"] == rows_digest(trained.held)
    assert told["data_sha256"] == hashlib.sha256(trained.config.data.train.read_bytes()).hexdigest()
    assert (told["quantization"], told["dtype"], told["seed"]) == ("none", "F32", 0)
    assert told["metrics"]["eval_loss"] < told["metrics"]["eval_loss_before"]
    assert {"torch", "peft", "transformers"} <= set(told["versions"])

    stored = client.adapters.upload(colors(6), "told-of")
    card = client.adapters.card(stored.id)
    assert stored.base_mismatches == () and card.training == told and "curves.png" in card.readme


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": "lorikeet-training-v9"}, "format of lorikeet_manifest.json"),
        ({"base_model": "a\nb"}, "base_model of"),
        ({"base_fingerprint": "0" * 64}, "trained over base 000000000000, served over base"),
        ({"base_fingerprint": "0"}, "base_fingerprint of"),
        ({"quantization": "nf4"}, "trained over the base in nf4, served over it in none"),
        ({"scales": {UP: 3.0}}, f"says that the scale of {UP} is 3"),
        ({"scales": {"lm_head": 2.0}}, "which the adapter does not change"),
        ({"tokenizer_sha256": "0" * 64}, "trained with tokenizer 000000000000"),
        ({"chat_template_sha256": "0" * 64}, "trained with chat template 000000000000"),
        ({"data_sha256": "?"}, "data_sha256 of"),
        ({"eval_sha256": "?"}, "eval_sha256 of"),
        ({"dtype": "BF16"}, "the tensors are BF16; they are F32"),
        ({"seed": "0"}, "seed of"),
        ({"lineage": [1]}, "lineage of"),
        ({"metrics": {"eval_loss": "low"}}, "metrics of"),
        ({"versions": {"peft": 1}}, "versions of"),
        ({"created_at": "today"}, "created_at of"),
        ({"mood": "good"}, "'mood' is no field"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_field_that_is_not_so_is_refused(
    client: Client, copied: Colors, change: dict[str, Any], told: str
) -> None:
    folder = copied(6)
    (folder / "lorikeet_manifest.json").write_text(json.dumps(manifest(folder) | change))
    with pytest.raises(InvalidRequest) as caught:
        client.adapters.upload(folder, "corrupt")
    assert told in str(caught.value) + str(caught.value.violations)


def test_the_same_run_leaves_the_same_bytes(colors: Colors, tmp_path: Path) -> None:
    story = json.loads((colors(6) / "training.json").read_text())["config"]
    table = {key: _given(value) for key, value in story.items() if value is not None}
    again = run(replace(parse_config(table), output=tmp_path / colors(6).name)).output
    for name in ("adapter_model.safetensors", "lorikeet_manifest.json", "README.md"):
        assert (again / name).read_bytes() == (colors(6) / name).read_bytes(), name


def _given(value: Any) -> Any:
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value
