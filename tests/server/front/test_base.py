"""What the front reads of a base before there is an engine."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.base import UnreadableBase, read_base


def write(folder: Path, config: dict[str, Any], generation: dict[str, Any] | None = None) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return str(folder)


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
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UnreadableBase, match="cannot be read"):
        read_base(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UnreadableBase, match="no JSON object"):
        read_base(str(tmp_path))
