"""lorikeet_manifest.json: what a trainer tells of the adapter that it made, and whether that is so here.

A closed schema, every field optional but the format. What contradicts the files refuses the upload; what
says that the adapter was made for another base, or for the base in another quantization, refuses it unless
the uploader allows that, and is then kept with the version.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from adapters.errors import InvalidAdapter
from adapters.files import OPTIONAL_FILES, STORY_NAME
from adapters.shapes import BaseShapes, Target
from adapters.strict_json import parse_object, show
from adapters.strict_text import read_text

STORY_FORMAT = "lorikeet-training-v1"
MAX_DEPTH = 8
MAX_TEXT = 1024
MAX_ENTRIES = 8192
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")

Check = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT and (value.isprintable() or not value)


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.match(value) is not None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_map(item: Check) -> Check:
    return lambda value: (
        isinstance(value, dict)
        and len(value) <= MAX_ENTRIES
        and all(_is_text(key) and item(entry) for key, entry in value.items())
    )


def _is_list(item: Check) -> Check:
    return lambda value: isinstance(value, list) and len(value) <= MAX_ENTRIES and all(map(item, value))


# key -> (what it may hold, in words for the sentence)
_FIELDS: dict[str, tuple[Check, str]] = {
    "format": (lambda value: value == STORY_FORMAT, f"{STORY_FORMAT!r}"),
    "task": (_is_text, "a name, such as 'sft'"),
    "scorer": (_is_text, "a name"),
    "base_model": (_is_text, "a name"),
    "base_fingerprint": (_is_sha256, "64 lower-case hex digits"),
    "quantization": (_is_text, "the name of a recipe, such as 'nf4'"),
    "scales": (_is_map(_is_number), "an object of a number for each module"),
    "tokenizer_sha256": (_is_sha256, "64 lower-case hex digits"),
    "chat_template_sha256": (_is_sha256, "64 lower-case hex digits"),
    "data_sha256": (_is_sha256, "64 lower-case hex digits"),
    "eval_sha256": (_is_sha256, "64 lower-case hex digits"),
    "dtype": (_is_text, "the safetensors name of the tensors' dtype, such as 'F32', or 'mixed'"),
    "seed": (lambda value: type(value) is int, "a whole number"),
    "lineage": (_is_list(_is_text), "a list of references or digests"),
    "metrics": (_is_map(_is_number), "an object of finite numbers"),
    "versions": (_is_map(_is_text), "an object of texts"),
    "created_at": (_is_number, "seconds since the epoch"),
}


def read_story(folder: Path) -> dict[str, Any]:
    """The parsed file; raises InvalidAdapter with every problem."""
    text = read_text(folder / STORY_NAME, OPTIONAL_FILES[STORY_NAME])
    story = parse_object(text.encode(), STORY_NAME, MAX_DEPTH)
    problems = [f"{show(key)} is no field of {STORY_NAME}; remove it" for key in story if key not in _FIELDS]
    for key, (accepts, words) in _FIELDS.items():
        if (key in story or key == "format") and not accepts(story.get(key)):
            problems.append(f"{key} of {STORY_NAME} is {show(story.get(key))}; write {words}")
    if problems:
        raise InvalidAdapter(problems)
    return story


def contradictions(
    story: Mapping[str, Any], targets: Mapping[str, Target], hashes: Mapping[str, str], dtype: str
) -> list[str]:
    """What the files say otherwise: `hashes` are their sha256 by name, `dtype` is that of the tensors."""
    problems = []
    if story.get("dtype", dtype) != dtype:
        problems.append(
            f"{STORY_NAME} says that the tensors are {story['dtype']}; they are {dtype}: save both again"
        )
    for name, scale in story.get("scales", {}).items():
        if name not in targets:
            problems.append(f"{STORY_NAME} gives a scale for {show(name)}, which the adapter does not change")
        elif not math.isclose(targets[name].scale, scale, rel_tol=1e-6):
            problems.append(
                f"{STORY_NAME} says that the scale of {name} is {scale:g}; the configuration makes it "
                f"{targets[name].scale:g}"
            )
    for key, file in (
        ("tokenizer_sha256", "tokenizer.json"),
        ("chat_template_sha256", "chat_template.jinja"),
    ):
        if key in story and file in hashes and story[key] != hashes[file]:
            problems.append(f"{file} is not the file that {STORY_NAME} names by its sha256; save both again")
    return problems


def mismatches(
    story: Mapping[str, Any], base: BaseShapes, tokenizer_files: Collection[str] = ()
) -> tuple[str, ...]:
    """What the trainer's base had that this one has not; nothing where either side says nothing.

    An adapter that brings `tokenizer_files` of its own does not depend on the base's.
    """
    found = []
    fingerprint, recipe = story.get("base_fingerprint"), story.get("quantization")
    if recipe and base.quantization and recipe != base.quantization:
        found.append(f"trained over the base in {recipe}, served over it in {base.quantization}")
    if fingerprint and base.fingerprint and fingerprint != base.fingerprint:
        found.append(f"trained over base {fingerprint[:12]}, served over base {base.fingerprint[:12]}")
    if not tokenizer_files:
        found += _text_mismatches(story, base)
    return tuple(found)


def _text_mismatches(story: Mapping[str, Any], base: BaseShapes) -> list[str]:
    kinds = (
        ("tokenizer", story.get("tokenizer_sha256"), base.tokenizer_sha256),
        ("chat template", story.get("chat_template_sha256"), base.chat_template_sha256),
    )
    return [
        f"trained with {kind} {theirs[:12]}, served with {kind} {ours[:12]}"
        for kind, theirs, ours in kinds
        if theirs and ours and theirs != ours
    ]
