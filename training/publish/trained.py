"""An adapter's folder as its trainer left it: model, tokenizer, and the rows that it never saw."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from adapters.files import CONFIG_NAME
from training.config import DataConfig, TrainConfig
from training.configfile import parse_config
from training.data import Row
from training.encode import encode_rows, prompt_text, resolve_format
from training.errors import InvalidConfig, InvalidData
from training.evaluation.exam import split_data
from training.files import STORY_FILE, sha256
from training.model import load_adapted, load_tokenizer
from training.preference.config import IMITATING, SFT
from training.quiet import quiet

# What of a run's settings decides model and rows; the rest was for training.
_KEPT = ("base", "output", "quantization", "dtype", "seed", "data")


@dataclass(frozen=True, slots=True)
class Trained:
    """The base under the adapter, and what it is judged on."""

    folder: Path
    config: TrainConfig
    tokenizer: PreTrainedTokenizerBase
    model: PeftModel
    held: list[Row]

    @property
    def is_chat(self) -> bool:
        """Whether prompts are turns in the base's template."""
        return resolve_format(self.tokenizer, self.config.data.format) == "chat"

    def prompt_ids(self, row: Row) -> list[int]:
        """The token ids before the row's last answer, as training has them and a server should."""
        if self.is_chat:
            text = prompt_text(row, self.tokenizer, "chat")
            ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            return ids
        (example,) = encode_rows([row], self.tokenizer, self.config.data, self.folder)
        start = next(index for index, label in enumerate(example.labels) if label >= 0)
        return example.input_ids[:start]


def open_trained(folder: Path, *, base: str = "", rows: Path | None = None) -> Trained:
    """Loads what stands in `folder`; `base` and held-out `rows` are those of training unless given.

    Raises `InvalidConfig` where either is not known, and `InvalidData` for rows that training did not have.
    """
    story = _story(folder)
    config = _config(folder, story.get("config", {}), base, rows)
    if rows is None:
        _check_unchanged(config.data, story.get("data_sha256", {}))
    _, held = split_data(config)
    with quiet():
        tokenizer = load_tokenizer(config.base)
        model = load_adapted(config.base, folder, config.dtype, config.quantization)
    return Trained(folder, config, tokenizer, model, held)


def _story(folder: Path) -> dict[str, Any]:
    path = folder / STORY_FILE
    try:
        story = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise InvalidConfig([f"{path} cannot be read: {error}"]) from error
    return story if isinstance(story, dict) else {}


def _config(folder: Path, told: Mapping[str, Any], base: str, rows: Path | None) -> TrainConfig:
    table = {key: _without_gaps(told[key]) for key in _KEPT if key in told}
    table |= {"base": base} if base else {}
    if rows is not None:
        data = {"train": str(rows), **table.get("data", {}), "eval": str(rows), "eval_fraction": 0.0}
        table["data"] = data
    problems = []
    if not (folder / CONFIG_NAME).is_file():
        problems.append(f"{folder} holds no {CONFIG_NAME}: only adapters are published, not whole models")
    if not table.get("base"):
        problems.append(f"{folder} does not say what it was trained on: give --base")
    data = table.get("data", {})
    if rows is None and told.get("task", SFT) not in IMITATING:
        problems.append(
            f"rows of task {told['task']} have no answers to be judged by: give --eval FILE.jsonl"
        )
    elif not (data.get("eval") or data.get("eval_fraction")):
        problems.append(f"no rows were held out when {folder} was trained: give --eval FILE.jsonl")
    if problems:
        raise InvalidConfig(problems)
    return replace(parse_config({"output": str(folder), **table}), output=folder)


def _without_gaps(value: Any) -> Any:
    """Without the keys that were left out of a section: TOML has no null, and neither have settings."""
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, Mapping) else value


def _check_unchanged(data: DataConfig, digests: Mapping[str, str]) -> None:
    for name, path in (("train", data.train), ("eval", data.eval)):
        if path is None:
            continue
        if not path.is_file():
            raise InvalidData(path, ["the file that training had is gone: give held-out rows by --eval"])
        if digests.get(name, "") not in ("", sha256(path)):
            raise InvalidData(
                path, ["the rows are not those of training any more: give held-out rows by --eval"]
            )
