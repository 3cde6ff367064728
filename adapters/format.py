"""The check of a PEFT folder against the base: what is served is exact, and all problems come at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from adapters.companions import check_companions
from adapters.errors import InvalidAdapter
from adapters.facts import dtype_of, manifest_of
from adapters.files import (
    CONFIG_NAME,
    STORY_NAME,
    WEIGHTS_NAME,
    FileSpec,
    check_folder,
    describe,
    open_regular,
)
from adapters.header import TensorInfo, read_header
from adapters.manifest import BaseShapes, Manifest
from adapters.peft_config import AdapterConfig, read_config
from adapters.plan import Plan, make_plan
from adapters.story import contradictions, mismatches, read_story
from adapters.tensor_check import check_numbers, check_shapes

T = TypeVar("T")


@dataclass(frozen=True)
class _Parsed:
    """A folder's files, read and not yet compared with the base or each other."""

    config: AdapterConfig
    tensors: dict[str, TensorInfo]
    tokenizer_files: tuple[str, ...]
    story: dict[str, Any] | None


def inspect(
    folder: Path,
    base: BaseShapes,
    max_rank: int,
    *,
    allow_extra: bool = False,
    allow_base_mismatch: bool = False,
    known: Collection[FileSpec] = (),
) -> Manifest:
    """Checks the PEFT folder and returns its manifest; raises InvalidAdapter with every problem.

    `allow_extra` tolerates files that no adapter has, such as the log of a training run.
    `allow_base_mismatch` takes an adapter whose trainer says that it was made for another base, and notes
    that in the manifest. `known` files were hashed as they came, and are not hashed again.
    """
    present, problems = check_folder(folder, allow_extra)
    _refuse(problems)
    parsed = _parse(folder, present, max_rank, problems)
    plan = _check_weights(folder, parsed, base, problems)
    hashed = {file.name: file for file in known}
    files = [hashed.get(name) or describe(folder / name) for name in present]
    return replace(
        manifest_of(files, parsed.config, plan, parsed.tensors, base),
        tokenizer_files=parsed.tokenizer_files,
        story=parsed.story,
        mismatches=_check_story(parsed, plan, files, base, allow_base_mismatch),
    )


def _parse(folder: Path, present: Collection[str], max_rank: int, problems: list[str]) -> _Parsed:
    """Raises at once only where nothing is left to be checked."""
    config = _gather(lambda: read_config(folder / CONFIG_NAME, max_rank), problems)
    tokenizer_files = check_companions(folder, present, problems)
    story = _gather(lambda: read_story(folder), problems) if STORY_NAME in present else None
    tensors = _gather(lambda: _read_tensors(folder, config), problems)
    if config is None or tensors is None:
        raise InvalidAdapter(problems)
    return _Parsed(config, tensors, tokenizer_files, story)


def _check_weights(folder: Path, parsed: _Parsed, base: BaseShapes, problems: list[str]) -> Plan:
    plan = make_plan(parsed.config, base, problems)
    check_shapes(parsed.tensors, plan, problems)
    _refuse(problems)
    with open_regular(folder / WEIGHTS_NAME) as fd:
        check_numbers(fd, parsed.tensors, plan, problems)
    _refuse(problems)
    return plan


def _check_story(
    parsed: _Parsed, plan: Plan, files: Sequence[FileSpec], base: BaseShapes, allow_mismatch: bool
) -> tuple[str, ...]:
    """What its trainer says of the base that is not so here."""
    if not parsed.story:
        return ()
    odd = mismatches(parsed.story, base, parsed.tokenizer_files)
    hashes = {file.name: file.sha256 for file in files}
    problems = contradictions(parsed.story, plan.targets, hashes, dtype_of(parsed.tensors))
    _refuse(problems + ([] if allow_mismatch else [f"{text}; train over this base" for text in odd]))
    return odd


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise InvalidAdapter(problems)


def _gather(read: Callable[[], T], problems: list[str]) -> T | None:
    try:
        return read()
    except InvalidAdapter as error:
        problems.extend(error.problems)
        return None


def _read_tensors(folder: Path, config: AdapterConfig | None) -> dict[str, TensorInfo]:
    with open_regular(folder / WEIGHTS_NAME) as fd:
        if config is None:
            return read_header(fd)
        return read_header(fd, config.kind.max_dims, config.kind.may_be_empty)
