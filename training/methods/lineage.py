"""The adapter that a run goes on with: what the run takes over from it, and what is noted of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import PeftConfig

from adapters.files import CONFIG_NAME, WEIGHTS_NAME
from training.config import LoraSection, PromptSection, TrainConfig
from training.errors import InvalidConfig
from training.files import STORY_FILE, sha256
from training.methods.table import METHODS

# Settings that decide an adapter's shape and scale, by the names that PEFT has for them.
_LORA = {
    "rank": "r",
    "alpha": "lora_alpha",
    "rslora": "use_rslora",
    "dora": "use_dora",
    "targets": "target_modules",
    "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern",
    "layers_to_transform": "layers_to_transform",
}


def inherited(config: TrainConfig) -> TrainConfig:
    """`config` with the shape of the adapter in `init_from`.

    Settings that the run leaves alone become the adapter's. Raises `InvalidConfig` for others that differ,
    and for an adapter of another kind or of another quantization of the base.
    """
    if config.init_from is None:
        return config
    found = _read(config.init_from)
    problems = list(_misfits(config, found))
    lora = _taken_over(config.lora, LoraSection(), "lora", _LORA, found, problems)
    tokens = {"tokens": "num_virtual_tokens"}
    prompt = _taken_over(config.prompt, PromptSection(), "prompt", tokens, found, problems)
    if problems:
        raise InvalidConfig(problems)
    return replace(config, lora=lora, prompt=prompt)


def starting_config(config: TrainConfig) -> PeftConfig:
    """PEFT's configuration of the adapter in `init_from`, ready to be trained."""
    assert config.init_from is not None, "there is an adapter to go on with"
    found = _read(config.init_from)
    if hasattr(found, "lora_dropout"):
        found.lora_dropout = config.lora.dropout
    found.inference_mode = False
    return found


def ancestors(folder: Path | None) -> list[str]:
    """Digests of the weights of all adapters that this one goes back to, the latest last."""
    if folder is None:
        return []
    return [*_story(folder).get("lineage", []), sha256(folder / WEIGHTS_NAME)]


def _read(folder: Path) -> PeftConfig:
    missing = [name for name in (CONFIG_NAME, WEIGHTS_NAME) if not (folder / name).is_file()]
    if missing:
        raise InvalidConfig([f"init_from: {folder} is no adapter, it lacks {' and '.join(missing)}"])
    try:
        return PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidConfig([f"init_from: {folder / CONFIG_NAME} cannot be read: {error}"]) from error


def _misfits(config: TrainConfig, found: PeftConfig) -> Iterator[str]:
    assert config.init_from is not None
    kind, made = found.peft_type.value, METHODS[config.method].family.upper()
    if kind != made:
        yield f"init_from has an adapter of kind {kind}, method {config.method} trains {made}: change it"
    if isinstance(getattr(found, "target_modules", None), str):
        yield "init_from chooses its linears by a pattern: save it with a list of target_modules"
    trained = _story(config.init_from).get("config", {}).get("quantization", config.quantization)
    if trained != config.quantization:
        yield f"init_from was trained over the base in {trained}: set quantization = {trained}"


def _taken_over(
    section: Any, untouched: Any, title: str, names: dict[str, str], found: PeftConfig, problems: list[str]
) -> Any:
    """`section` with the adapter's values; a value of the run's own that differs becomes a problem."""
    values = {}
    for name, theirs in names.items():
        if not hasattr(found, theirs):
            continue
        value = _as_ours(getattr(found, theirs))
        ours = getattr(section, name)
        if ours not in (getattr(untouched, name), value):
            problems.append(f"{title}.{name} is {ours!r} and {value!r} in init_from: leave it out")
        values[name] = value
    return replace(section, **values)


def _as_ours(value: Any) -> Any:
    """PEFT's sets and lists as sorted tuples, its empty tables as None."""
    if isinstance(value, dict):
        return value or None
    return tuple(sorted(value)) if isinstance(value, set | list | tuple) else value


def _story(folder: Path) -> dict[str, Any]:
    path = folder / STORY_FILE
    if not path.is_file():
        return {}
    try:
        story: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidConfig([f"init_from: {path} cannot be read: {error}"]) from error
    return story
