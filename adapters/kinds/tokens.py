"""Trainable tokens: rows of the embedding, and of a head that is tied to it, that replace the base's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adapters.config_keys import INIT, NOTES
from adapters.config_reader import MAX_TOKENS, Reader
from adapters.kinds.kind import Kind, Option, Options
from adapters.shapes import EMBEDDING, HEAD, BaseShapes, Claim, Site

PREFIX = "base_model.model."
ROWS = "trainable_tokens_delta"


def _is_rows(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= MAX_TOKENS
        and all(type(token) is int and 0 <= token < 2**31 for token in value)
        and len(set(value)) == len(value)
    )


def _claims(sites: Sequence[Site], options: Options, base: BaseShapes) -> dict[str, Claim]:
    names = {site.name for site in sites}
    if base.tied and EMBEDDING in names:
        # PEFT hangs the same rows on the tied head, and saves them twice.
        names.add(HEAD)
    shape = (len(options["token_indices"]), base.hidden_size)
    return {f"{PREFIX}{name}.{ROWS}": Claim(name, ROWS, shape) for name in sorted(names)}


def _check(reader: Reader, options: Options) -> None:
    if reader.config.get("token_indices") is None:
        reader.problems.append("token_indices is missing")


TRAINABLE_TOKENS = Kind(
    "trainable_tokens",
    used=("target_modules",),
    inert={**NOTES, **INIT},
    options={"token_indices": Option(_is_rows, (), f"list 1 to {MAX_TOKENS} token ids, each of them once")},
    places="tables",
    claims=_claims,
    check=_check,
    direct=True,
)
