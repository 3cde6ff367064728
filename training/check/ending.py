"""Whether a model trained on these rows will know when to stop, and knows the template's own tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from training.check.coding import Coded
from training.check.report import CheckReport
from training.config import DataConfig
from training.encode import IGNORED, marks_turns, resolve_format

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Rows of an embedding that were never trained are all small, or all alike.
UNTRAINED = 0.2
SAMPLE = 1000


def find_endings(
    coded: Sequence[Coded],
    tokenizer: PreTrainedTokenizerBase,
    structure: Any,
    data: DataConfig,
    report: CheckReport,
) -> None:
    """What ends an answer must be in the loss, and must be what a server stops at."""
    last = [[label for label in one.example.labels if label != IGNORED][-2:] for one in coded]
    stops = _stops(tokenizer, structure)
    endless = [one.row.line for one, ids in zip(coded, last, strict=True) if not stops & set(ids)]
    if endless:
        names = ", ".join(sorted({repr(tokenizer.decode(ids[-1:])) for ids in last})[:3])
        text = (
            f"{len(endless)} rows (line {endless[0]} first) end in {names}, at which the base does not stop"
        )
        report.add(
            "warning", "endings", [f"{text}: add it to eos_token_id in the base's generation_config.json"]
        )
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        report.add(
            "warning",
            "padding",
            [
                "the base pads with the token that ends a turn: it stays in the loss here, but trainers that "
                "leave padding out of the loss would teach the adapter never to stop"
            ],
        )
    if resolve_format(tokenizer, data.format) == "chat" and not marks_turns(tokenizer):
        text = "the chat template has no {% generation %} marks: turns were found by rendering each beginning"
        report.add("note", "template", [text])


def find_untrained(
    base: str, coded: Sequence[Coded], tokenizer: PreTrainedTokenizerBase, report: CheckReport
) -> None:
    """Special tokens in the rows that the base has never learned; an adapter of linears cannot teach them."""
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    used = sorted({token for one in coded for token in one.example.input_ids} & special)
    unknown = [repr(tokenizer.decode([token])) for token in _untrained(Path(base), used)]
    if unknown:
        text = f"{', '.join(unknown)} of the chat template look untrained in the base, and stay so"
        report.add(
            "warning", "template", [f"{text}: take an instruction-tuned base, or set data.format = plain"]
        )


def _stops(tokenizer: PreTrainedTokenizerBase, structure: Any) -> set[int]:
    stops = {tokenizer.eos_token_id}
    for source in (structure.get_text_config(), _generation(structure)):
        ends = getattr(source, "eos_token_id", None)
        stops |= set(ends if isinstance(ends, list) else [ends])
    return stops - {None}


def _generation(structure: Any) -> Any:
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(structure.name_or_path)
    except (OSError, ValueError):
        return None


def _untrained(base: Path, tokens: Sequence[int]) -> Iterator[int]:
    """Tokens whose embedding is far shorter than most; nothing where the weights are not at hand."""
    found = _embedding(base)
    if found is None or not tokens:
        return
    file, name = found
    with safe_open(file, "pt") as weights:
        rows = weights.get_slice(name)
        count = rows.get_shape()[0]
        sample = [_norm(rows, i) for i in range(0, count, max(1, count // SAMPLE))]
        usual = sorted(sample)[len(sample) // 2]
        yield from (token for token in tokens if token < count and _norm(rows, token) < UNTRAINED * usual)


def _norm(rows: Any, index: int) -> float:
    return float(rows[index : index + 1].float().norm())


def _embedding(base: Path) -> tuple[Path, str] | None:
    """The file and the name of the input embedding."""
    index = base / "model.safetensors.index.json"
    if index.is_file():
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return next(((base / file, name) for name, file in places.items() if _is_embedding(name)), None)
    file = base / "model.safetensors"
    if not file.is_file():
        return None
    with safe_open(file, "pt") as weights:
        return next(((file, name) for name in weights.keys() if _is_embedding(name)), None)  # noqa: SIM118


def _is_embedding(name: str) -> bool:
    return name.endswith("embed_tokens.weight")
