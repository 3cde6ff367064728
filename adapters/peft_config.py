"""adapter_config.json, read through the closed list of keys of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.config_keys import MERGE, check_inert_keys
from adapters.config_reader import Patterns, Reader
from adapters.errors import InvalidAdapter
from adapters.files import CONFIG_NAME, MAX_CONFIG_BYTES, open_regular, read_at
from adapters.kinds import KINDS, Kind, refusal
from adapters.kinds.kind import MAX_SOURCE_RANK
from adapters.strict_json import parse_object, show

MAX_DEPTH = 6


@dataclass(frozen=True)
class AdapterConfig:
    """What of a configuration decides the served function.

    `target_modules` and `exclude_modules` are a regular expression when a string, names or their endings
    when a tuple. Patterns keep the order of the file, because the first that matches wins. `bias` is
    "none", "only" (of the targeted linears) or "all"; `token_rows` maps the endings of tables' names to
    token ids.
    """

    kind: Kind
    rank: int
    alpha: float
    options: Mapping[str, Any]
    rank_pattern: Patterns
    alpha_pattern: Patterns
    target_modules: str | tuple[str, ...]
    exclude_modules: str | tuple[str, ...]
    layers_to_transform: tuple[int, ...]
    layers_pattern: tuple[str, ...]
    bias: str
    saved_modules: tuple[str, ...]
    token_rows: tuple[tuple[str, tuple[int, ...]], ...]
    ensure_tying: bool
    base_model_name: str


def read_config(path: Path, max_rank: int) -> AdapterConfig:
    """Reads the file at `path`; raises InvalidAdapter with every problem."""
    with open_regular(path) as fd:
        return parse_config(read_at(fd, 0, MAX_CONFIG_BYTES + 1), max_rank)


def parse_config(raw: bytes, max_rank: int) -> AdapterConfig:
    """Parses the bytes of adapter_config.json; raises InvalidAdapter with every problem."""
    if len(raw) > MAX_CONFIG_BYTES:
        raise InvalidAdapter([f"{CONFIG_NAME} is larger than {MAX_CONFIG_BYTES} bytes"])
    config = parse_object(raw, CONFIG_NAME, MAX_DEPTH)
    peft_type = config.get("peft_type")
    kind = KINDS.get(peft_type) if isinstance(peft_type, str) else None
    if kind is None:
        raise InvalidAdapter([f"peft_type is {show(peft_type)}: {refusal(str(peft_type))}"])
    reader = Reader(config)
    check_inert_keys(config, kind.keys, kind.inert, reader.problems)
    parsed = _read(reader, kind, max_rank)
    if reader.problems:
        raise InvalidAdapter(reader.problems)
    return parsed


def _read(reader: Reader, kind: Kind, max_rank: int) -> AdapterConfig:
    options = _options(reader, kind)
    kind.check(reader, options)
    highest = max_rank if kind.served_rank else MAX_SOURCE_RANK
    config, targeted = reader.config, kind.places != "none"
    by_rank, by_alpha = "rank_pattern" in kind.used, "alpha_pattern" in kind.used
    parsed = AdapterConfig(
        kind=kind,
        rank=reader.rank(config.get(kind.rank_key), kind.rank_key, highest) if kind.rank_key else 0,
        alpha=reader.alpha(config.get(kind.alpha_key), kind.alpha_key) if kind.alpha_key else 1.0,
        options=options,
        rank_pattern=reader.patterns("rank_pattern", lambda value, key: reader.rank(value, key, highest))
        if by_rank
        else (),
        alpha_pattern=reader.patterns("alpha_pattern", reader.alpha) if by_alpha else (),
        target_modules=reader.modules("target_modules", required=True) if targeted else (),
        exclude_modules=reader.modules("exclude_modules"),
        layers_to_transform=reader.layers(),
        layers_pattern=reader.layers_pattern(),
        bias=_bias(reader),
        saved_modules=reader.plain_names("modules_to_save"),
        token_rows=_token_rows(reader),
        ensure_tying=reader.flag("ensure_weight_tying"),
        base_model_name=reader.base_model_name(),
    )
    reader.check_combination()
    return parsed


def _options(reader: Reader, kind: Kind) -> dict[str, Any]:
    options = {}
    for key, option in kind.options.items():
        value = reader.config.get(key)
        if value is not None and not option.accepts(value):
            reader.problems.append(f"{key} = {show(value)} is not served; {option.remedy}")
            value = None
        options[key] = option.default if value is None else value
    return options


def _bias(reader: Reader) -> str:
    value = reader.config.get("bias")
    if value in (None, "none", "all"):
        return value or "none"
    if isinstance(value, str) and value.endswith("_only"):
        return "only"
    reader.problems.append(f"bias = {show(value)} is not served; train with bias='none', or {MERGE}")
    return "none"


def _token_rows(reader: Reader) -> tuple[tuple[str, tuple[int, ...]], ...]:
    value = reader.config.get("trainable_token_indices")
    if value is None or value == {}:
        return ()
    # PEFT reads a bare list as one of the input embedding.
    by_name = value if isinstance(value, dict) else {"embed_tokens": value}
    return tuple((name, reader.token_rows(ids, "trainable_token_indices")) for name, ids in by_name.items())
