"""Adapters' folders -> what they make of a base, each read as its files and its kind say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.aggregate import aggregate
from adapters.config_keys import MERGE
from adapters.errors import InvalidAdapter
from adapters.files import WEIGHTS_NAME, open_regular
from adapters.format import inspect
from adapters.header import read_header
from adapters.kinds.tokens import PREFIX
from adapters.manifest import Manifest
from adapters.merge.changes import Changes
from adapters.merge.errors import MergeRefused
from adapters.merge.recipes import Trained
from adapters.normal import AdapterWeights, LinearChange, LowRank
from adapters.prepared import load, make
from adapters.shapes import BaseShapes

_A, _B = ".lora_A.weight", ".lora_B.weight"
# Pairs are multiplied out and not served, so the server's limit is none of theirs.
_ANY_RANK = 1 << 20


@dataclass(frozen=True)
class Source:
    """One adapter's folder; `manifest` is what the check against the base has found, if it has one."""

    folder: Path
    digest: str
    kind: str
    manifest: Manifest | None

    @property
    def story(self) -> dict[str, Any] | None:
        """Its trainer's manifest, if it brought one."""
        return self.manifest.story if self.manifest else None

    @property
    def top_token(self) -> int:
        """The highest token that it adds to the vocabulary, -1 if none."""
        return self.manifest.top_token if self.manifest else -1


def open_source(folder: Path, shapes: BaseShapes) -> Source:
    """Raises MergeRefused with everything that does not fit the base."""
    try:
        manifest = inspect(folder, shapes, _ANY_RANK, allow_extra=True, allow_base_mismatch=True)
    except InvalidAdapter as error:
        raise MergeRefused(f"{folder} cannot be merged: {_without_remedy(error)}") from error
    return Source(folder, manifest.digest, manifest.kind, manifest)


def _without_remedy(error: InvalidAdapter) -> str:
    """To merge it is what a server advises."""
    text = "; ".join(error.problems)
    for words in (f", or {MERGE}", f"; {MERGE}", f", else {MERGE}"):
        text = text.replace(words, "")
    return text


def read_changes(source: Source, trained: Trained) -> AdapterWeights:
    """The normal form over the base as trained, exact whatever its rank. Raises InvalidAdapter."""
    assert source.manifest is not None, "only a checked adapter has a normal form"
    return make(source.folder, source.manifest, trained.base(), _ANY_RANK)[0]


def sum_of(adapters: Sequence[AdapterWeights], weights: Sequence[float]) -> Changes:
    """The exact weighted sum of the updates: pairs are stacked, not averaged apart."""
    pairs = [pairs_of(adapter) for adapter in adapters]
    whole = aggregate(pairs, weights)
    return Changes(AdapterWeights({name: LinearChange(pair) for name, pair in whole.pairs.items()}))


def pairs_of(adapter: AdapterWeights) -> dict[str, LowRank]:
    pairs = adapter.pairs()
    if pairs is None:
        raise MergeRefused(
            "only adapters that are nothing but low-rank pairs on linears are merged together; merge one "
            "with gains, biases, tables or norms alone, then use the merged folder as the base of the next"
        )
    return pairs


def read_pairs(folder: Path) -> tuple[dict[str, LowRank], str]:
    """A plain LoRA without its base, whose shapes its own tensors tell; and the base's name as written there.

    Raises InvalidAdapter for what is no LoRA of linears alone.
    """
    shapes = _own_shapes(folder)
    manifest = inspect(folder, shapes, _ANY_RANK, allow_extra=True, allow_base_mismatch=True)
    if not manifest.direct:
        raise InvalidAdapter([f"it is a {manifest.kind} and not only low-rank pairs, which alone can be cut"])
    return pairs_of(load(folder, manifest, shapes, _ANY_RANK)), manifest.base_model_name


def _own_shapes(folder: Path) -> BaseShapes:
    with open_regular(folder / WEIGHTS_NAME) as fd:
        infos = read_header(fd)
    names = [name.removeprefix(PREFIX).removesuffix(_A) for name in infos if name.endswith(_A)]
    known = [name for name in names if f"{PREFIX}{name}{_B}" in infos]
    if not known:
        raise InvalidAdapter(
            [f"{WEIGHTS_NAME} holds no lora_A and lora_B; only a LoRA of linears can be cut"]
        )
    return BaseShapes(
        {
            name: (infos[f"{PREFIX}{name}{_B}"].shape[0], infos[f"{PREFIX}{name}{_A}"].shape[1])
            for name in known
        }
    )
