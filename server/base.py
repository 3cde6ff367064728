"""What the front knows of the base model before the engine has loaded it: its name and how answers end."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from server.model.config import require_folder_or_id


class UnreadableBase(Exception):
    """The base's folder or repository lacks a file, or holds a broken one; the text says which."""


@dataclass(frozen=True)
class Base:
    """The base model as the front sees it."""

    name: str
    # End-of-sequence tokens that the model's own files name, the tokenizer's not included.
    eos_token_ids: frozenset[int]


def read_base(base: str) -> Base:
    """Reads a local folder or a hub repository; raises UnreadableBase or UnsupportedModel."""
    require_folder_or_id(base)
    config = _read_json(base, "config.json")
    if config is None:
        raise UnreadableBase(f"{base} has no config.json, or the hub cannot be reached.")
    generation = _read_json(base, "generation_config.json") or {}
    eos = generation.get("eos_token_id", config.get("eos_token_id"))
    return Base(name=_name(base), eos_token_ids=_ids(eos))


def _name(base: str) -> str:
    """A hub id as it is, of a folder only its last part: clients have no business with the server's paths."""
    return Path(base).resolve().name if Path(base).is_dir() else base


def _read_json(base: str, file: str) -> dict[str, Any] | None:
    try:
        path = cached_file(base, file, _raise_exceptions_for_missing_entries=False)
        found = None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableBase(f"{file} of {base} cannot be read ({error}).") from error
    if found is not None and not isinstance(found, dict):
        raise UnreadableBase(f"{file} of {base} is no JSON object.")
    return found


def _ids(eos: Any) -> frozenset[int]:
    if eos is None:
        return frozenset()
    return frozenset(eos if isinstance(eos, list) else [eos])
