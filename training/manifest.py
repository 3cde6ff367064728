"""lorikeet_manifest.json: what a server checks an upload against, written beside the PEFT files.

Nothing in it says when or how fast: the same run makes the same bytes, and the same adapter its digest.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from adapters.files import STORY_NAME
from adapters.fingerprint import base_fingerprint, tokenizer_hashes
from adapters.manifest import Manifest
from adapters.story import MAX_TEXT, STORY_FORMAT
from training.data import Row
from training.preference.config import scorer_told


def write_manifest(
    folder: Path,
    checked: Manifest,
    story: Mapping[str, Any],
    held: Sequence[Row],
    metrics: Mapping[str, float],
) -> None:
    """Writes the manifest of the adapter in `folder`.

    checked: what the server's own check has found there. story: the run as `training.json` tells it.
    """
    config = story["config"]
    fields = {
        "format": STORY_FORMAT,
        "task": config["task"],
        "base_model": config["base"],
        **base_fields(config["base"], config["quantization"]),
        "scales": {name: target.scale for name, target in checked.targets.items() if target.rank},
        "dtype": checked.dtype,
        "data_sha256": story["data_sha256"]["train"],
        "seed": config["seed"],
        "lineage": list(story.get("lineage", [])),
        "metrics": {name: value for name, value in metrics.items() if math.isfinite(value)},
        "versions": story["versions"],
    }
    if scorer := scorer_told(config["preference"]):
        fields["scorer"] = scorer[:MAX_TEXT]
    if held:
        fields["eval_sha256"] = rows_digest(held)
    (folder / STORY_NAME).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def base_fields(base: str, quantization: str) -> dict[str, str]:
    """Which base, in which recipe, under which tokenizer and template.

    Without the fingerprint where the base is not kept in safetensors, which no server holds.
    """
    folder = base_folder(base)
    recipe = _saved_recipe(folder) or quantization
    fields = {"quantization": recipe, **tokenizer_hashes(folder)}
    try:
        return {"base_fingerprint": base_fingerprint(folder, recipe), **fields}
    except ValueError:
        return fields


def base_folder(base: str) -> Path:
    """Where a base's files lie: its own folder, or what was fetched from the hub."""
    return Path(base) if Path(base).is_dir() else Path(str(cached_file(base, "config.json"))).parent


def _saved_recipe(folder: Path) -> str | None:
    """Of a checkpoint that was saved quantized, as servers name it."""
    saved = json.loads((folder / "config.json").read_bytes()).get("quantization_config")
    return None if saved is None else "int8" if saved.get("load_in_8bit") else "nf4"


def rows_digest(rows: Sequence[Row]) -> str:
    """sha256 of what the rows say, wherever they lie."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row.messages, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
