"""What the front reads of a base is what transformers makes of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from server.base import UnreadableBase, read_base
from server.model.config import FAMILIES, ModelConfig, UnsupportedModel

FULL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 99,
    "max_position_embeddings": 77,
    "rms_norm_eps": 1e-3,
    "tie_word_embeddings": True,
}


def write(folder: Path, config: dict[str, Any], generation: dict[str, Any] | None = None) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return str(folder)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("fields", [{}, FULL, {"sliding_window": 50, "use_sliding_window": True}])
def test_the_same_model_as_transformers_sees(tmp_path: Path, family: str, fields: dict[str, Any]) -> None:
    folder = write(tmp_path, {"model_type": family, **fields})
    ours = read_base(folder).model
    theirs = ModelConfig.from_hf(AutoConfig.from_pretrained(folder))
    assert replace(ours, source=None) == replace(theirs, source=None)


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({}, None, set()),
        ({"eos_token_id": 2}, None, {2}),
        ({"eos_token_id": [2, 3]}, {}, {2, 3}),
        ({"eos_token_id": 2}, {"eos_token_id": [4, 5]}, {4, 5}),
    ],
)
def test_end_of_sequence(
    tmp_path: Path, config: dict[str, Any], generation: dict[str, Any] | None, expected: set[int]
) -> None:
    folder = write(tmp_path, {"model_type": "llama", **config}, generation)
    assert read_base(folder).eos_token_ids == expected


def test_bad_bases(tmp_path: Path) -> None:
    with pytest.raises(UnreadableBase, match="config.json"):
        read_base(str(tmp_path))
    with pytest.raises(UnsupportedModel, match="supported are llama, mistral"):
        read_base(write(tmp_path, {"model_type": "mamba"}))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UnreadableBase, match="cannot be read"):
        read_base(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UnreadableBase, match="no JSON object"):
        read_base(str(tmp_path))
