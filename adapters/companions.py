"""Files that may come with an adapter: a card, its own tokenizer and template, and its trainer's manifest.

Nothing here is imported, rendered or run; who uses a tokenizer or a template loads the data and never code
(no `auto_map`, no class outside the tokenizers library).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from adapters.errors import InvalidAdapter
from adapters.files import OPTIONAL_FILES, TOKENIZER_FILES
from adapters.strict_text import read_text
from adapters.tokenizer_check import check_added_tokens, check_config, check_special_tokens, check_tokenizer


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


_CHECKS: dict[str, Callable[[str, str], None]] = {
    "tokenizer.json": check_tokenizer,
    "tokenizer_config.json": check_config,
    "special_tokens_map.json": check_special_tokens,
    "added_tokens.json": check_added_tokens,
}
