"""Files that may come with an adapter: a card, its own tokenizer and template, and its trainer's manifest.

Checked as text and JSON only. Nothing here is imported, rendered or run; who uses a tokenizer or a template
loads the data and never code (no `auto_map`, no class outside the tokenizers library).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from adapters.errors import InvalidAdapter
from adapters.files import OPTIONAL_FILES, TOKENIZER_FILES
from adapters.strict_json import parse_object, show
from adapters.strict_text import read_text

MAX_JSON_DEPTH = 32
TEMPLATE_NAME = "chat_template.jinja"
# Keys by which transformers would import code of the adapter's choosing.
_CODE_KEYS = ("auto_map", "tokenizer_file", "custom_pipelines")
_TOKENIZER_MODELS = ("BPE", "Unigram", "WordPiece", "WordLevel")


def check_companions(folder: Path, names: Iterable[str], problems: list[str]) -> tuple[str, ...]:
    """Checks those of the files that are optional ones; the names of the tokenizer's, sorted."""
    present = sorted(set(names) & set(OPTIONAL_FILES))
    for name in present:
        try:
            text = read_text(folder / name, OPTIONAL_FILES[name])
            _CHECKS.get(name, _check_any_text)(text, name)
        except InvalidAdapter as error:
            problems.extend(error.problems)
    tokenizer = tuple(name for name in present if name in TOKENIZER_FILES)
    _check_set(tokenizer, problems)
    return tokenizer


def _check_set(tokenizer: tuple[str, ...], problems: list[str]) -> None:
    lonely = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"} & set(tokenizer)
    if lonely and "tokenizer.json" not in tokenizer:
        problems.append(
            f"{min(lonely)} came without tokenizer.json; save the fast tokenizer, or leave it out"
        )


def _check_any_text(text: str, name: str) -> None:
    """That it is text was all there is to ask."""


def _check_tokenizer(text: str, name: str) -> None:
    tokenizer = parse_object(text.encode(), name, MAX_JSON_DEPTH)
    model = tokenizer.get("model")
    kind = model.get("type", "BPE") if isinstance(model, dict) else None
    if kind not in _TOKENIZER_MODELS:
        raise InvalidAdapter(
            [f"{name} has no model of a kind that is known; save it with PreTrainedTokenizerFast"]
        )
    _check_ids(tokenizer.get("added_tokens"), name)


def _check_ids(added: Any, name: str) -> None:
    entries = [] if added is None else added
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("content"), str) and _is_id(entry.get("id"))
        for entry in entries
    ):
        raise InvalidAdapter([f"added_tokens of {name} must list objects with an id and a content"])


def _check_tokenizer_config(text: str, name: str) -> None:
    # transformers writes int(1e30) for a length without a limit.
    config = parse_object(text.encode(), name, MAX_JSON_DEPTH, max_digits=40)
    code = [key for key in _CODE_KEYS if config.get(key) not in (None, {}, [])]
    if code:
        raise InvalidAdapter(
            [f"{name} sets {show(code[0])}; remove it, no code or path of an adapter is used"]
        )


def _check_special_tokens(text: str, name: str) -> None:
    parse_object(text.encode(), name, MAX_JSON_DEPTH)


def _check_added_tokens(text: str, name: str) -> None:
    if not all(_is_id(token) for token in parse_object(text.encode(), name, MAX_JSON_DEPTH).values()):
        raise InvalidAdapter([f"{name} must map each token to its id"])


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


_CHECKS: dict[str, Callable[[str, str], None]] = {
    "tokenizer.json": _check_tokenizer,
    "tokenizer_config.json": _check_tokenizer_config,
    "special_tokens_map.json": _check_special_tokens,
    "added_tokens.json": _check_added_tokens,
}
