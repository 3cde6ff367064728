"""The check of a PEFT folder against the base: what is served is exact, and every problem is named at once.

names    every tensor is called for by exactly one place, and everything that is called for is there
shapes   those of this base
numbers  all finite, and small enough for a trained update
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from adapters.companions import check_companions
from adapters.errors import InvalidAdapter
from adapters.files import (
    CONFIG_NAME,
    STORY_NAME,
    WEIGHTS_NAME,
    check_folder,
    describe,
    open_regular,
)
from adapters.header import TensorInfo, read_header
from adapters.manifest import BaseShapes, FileSpec, Manifest, content_digest
from adapters.numeric import max_magnitude
from adapters.peft_config import AdapterConfig, read_config
from adapters.plan import CARRIED, Plan, make_plan
from adapters.story import contradictions, mismatches, read_story
from adapters.strict_json import show

# Trained updates stay below 1 per entry; a million is far beyond use and far from overflowing bfloat16.
MAX_DELTA = 1e6
_PAIR_PARTS = ("lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B")

T = TypeVar("T")


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
    if problems:
        raise InvalidAdapter(problems)
    config = _gather(lambda: read_config(folder / CONFIG_NAME, max_rank), problems)
    tokenizer_files = check_companions(folder, present, problems)
    story = _gather(lambda: read_story(folder), problems) if STORY_NAME in present else None
    tensors = _gather(lambda: _read_tensors(folder, config), problems)
    if config is None or tensors is None:
        raise InvalidAdapter(problems)
    plan = make_plan(config, base, problems)
    _check_tensors(tensors, plan, problems)
    if not problems:
        _check_numbers(folder, tensors, plan, problems)
    if problems:
        raise InvalidAdapter(problems)
    hashed = {file.name: file for file in known}
    files = tuple(hashed.get(name) or describe(folder / name) for name in present)
    dtypes = {info.dtype for info in tensors.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else "mixed"
    odd = mismatches(story, base, tokenizer_files) if story else ()
    if story:
        problems += contradictions(story, plan.targets, {file.name: file.sha256 for file in files}, dtype)
        problems += [] if allow_base_mismatch else [f"{text}; train over this base" for text in odd]
    if problems:
        raise InvalidAdapter(problems)
    return Manifest(
        digest=content_digest(files),
        files=files,
        kind=kind_name(config),
        rank=max((target.rank for target in plan.targets.values()), default=0),
        num_parameters=sum(math.prod(info.shape) for info in tensors.values()),
        targets=plan.targets,
        base_model_name=config.base_model_name,
        dtype=dtype,
        direct=is_direct(config, plan, tensors),
        num_virtual_tokens=config.options.get("num_virtual_tokens", 0),
        top_token=_top_token(plan, tensors, base),
        tokenizer_files=tokenizer_files,
        story=story,
        mismatches=odd,
    )


def kind_name(config: AdapterConfig) -> str:
    """What listings call it: DoRA is a setting of LoRA to PEFT and a kind of its own to everyone else."""
    return "dora" if config.options.get("use_dora") else config.kind.name


def is_direct(config: AdapterConfig, plan: Plan, names: Collection[str]) -> bool:
    """Whether its normal form needs neither the base's weights nor a conversion."""
    needs_base = config.options.get("use_dora") or config.bias != "none"
    return config.kind.direct and not needs_base and not set(plan.optional) & set(names)


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


def _check_tensors(tensors: dict[str, TensorInfo], plan: Plan, problems: list[str]) -> None:
    if not plan.claims:
        problems.append(
            "target_modules matches no linear of this base; was the adapter trained on another base?"
        )
    for name, claim in {**plan.optional, **plan.claims}.items():
        if name not in tensors:
            if name in plan.claims:
                place = claim.place or "it"
                problems.append(f"tensor {show(name)} is missing although {CONFIG_NAME} targets {place}")
        elif not claim.fits(tensors[name].shape):
            problems.append(
                f"tensor {show(name)} has shape {tensors[name].shape}, this base needs {claim.shape}"
            )
    unclaimed = set(tensors) - set(plan.claims) - set(plan.optional)
    problems.extend(
        f"tensor {show(name)} belongs to no targeted linear of this base" for name in sorted(unclaimed)
    )


def _check_numbers(folder: Path, tensors: dict[str, TensorInfo], plan: Plan, problems: list[str]) -> None:
    magnitudes: dict[str, dict[str, float]] = defaultdict(dict)
    with open_regular(folder / WEIGHTS_NAME) as fd:
        for name, claim in {**plan.optional, **plan.claims}.items():
            if name in tensors:
                magnitudes[claim.place][claim.part] = max_magnitude(fd, tensors[name])
    for place, parts in magnitudes.items():
        what = place or "the shared parts"
        if any(math.isnan(value) for value in parts.values()):
            problems.append(f"the weights of {what} hold NaN or infinity; was the training run diverging?")
        elif not _bound(place, parts, plan) <= MAX_DELTA:
            problems.append(
                f"the weights of {what} are too large to be a trained update (bound {MAX_DELTA:g})"
            )


def _bound(place: str, parts: dict[str, float], plan: Plan) -> float:
    """The largest entry that scale * B A can have, or that the file has of anything else."""
    rest, target = dict(parts), plan.targets.get(place)
    pair = [rest.pop(part) for part in parts if part in _PAIR_PARTS]
    if target is None or len(pair) != 2:
        return max(parts.values())
    return max([*rest.values(), pair[0] * pair[1] * target.scale * target.rank])


def _top_token(plan: Plan, tensors: dict[str, TensorInfo], base: BaseShapes) -> int:
    """The highest token that the adapter adds, -1 if it adds none."""
    rows = [token for ids in plan.token_ids.values() for token in ids]
    grown = {**plan.optional, **plan.claims}
    tables = [
        tensors[name].shape[0] - 1
        for name, claim in grown.items()
        if name in tensors and (claim.grows or claim.part == CARRIED)
    ]
    top = max([*rows, *tables], default=-1)
    return top if top >= base.vocab_size else -1
