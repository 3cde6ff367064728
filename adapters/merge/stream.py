"""The merge itself: every tensor of the base through the changes and into a shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adapters.merge.changes import Changes
from adapters.merge.checkpoint import Checkpoint, as_float
from adapters.merge.encodings import Encode, Stored, Survival, dense, encoder, survival
from adapters.merge.errors import MergeRefused
from adapters.merge.folder import write_config
from adapters.merge.limits import check_mergeable
from adapters.merge.recipes import Trained
from adapters.merge.shards import ShardWriter
from adapters.shapes import EMBEDDING, HEAD

_EMBEDDING, _HEAD = f"{EMBEDDING}.weight", f"{HEAD}.weight"
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    """What a merge left in its folder. `untied`: the base's head was its embedding, and no longer is."""

    survivals: tuple[Survival, ...]
    num_tensors: int
    vocab_size: int
    untied: bool


def write_merged(
    folder: Path,
    trained: Trained,
    changes: Changes,
    target: str,
    shard_bytes: int,
    report: Report = lambda done, total: None,
) -> Written:
    """Weights and config.json of the merged model, in memory of about one shard.

    `report(tensors done, tensors in all)` is called as it goes on. Raises MergeRefused.
    """
    check_mergeable(changes, trained.checkpoint.shapes())
    writer, merge = ShardWriter(folder, shard_bytes), _Merge(trained, changes, target, encoder(target))
    names = list(trained.checkpoint.names())
    for number, name in enumerate(names):
        for key, tensor in merge.tensors(name):
            writer.add(key, tensor)
        report(number + 1, len(names))
    writer.close()
    tied = trained.checkpoint.is_tied and not merge.untied
    write_config(folder, trained.checkpoint, target, vocab_size=merge.vocab_size, tied=tied)
    return Written(tuple(merge.survivals), len(names), merge.vocab_size, merge.untied)


class _Merge:
    """One merge under way."""

    def __init__(self, trained: Trained, changes: Changes, target: str, encode: Encode) -> None:
        self._trained = trained
        self._changes = changes
        self._target = target
        self._encode = encode
        self.survivals: list[Survival] = []
        self.vocab_size = 0
        self.untied = False

    @property
    def _checkpoint(self) -> Checkpoint:
        return self._trained.checkpoint

    def tensors(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """What stands in the merged checkpoint for one tensor of the base."""
        module, _, kind = name.rpartition(".")
        if name in (_EMBEDDING, _HEAD):
            yield from self._tables(name)
        elif self._checkpoint.is_linear(name):
            yield from self._linear(module)
        elif kind == "bias":
            yield from self._dense(name, self._changes.bias(module, self._trained[name]))
        elif self._checkpoint[name].is_floating_point():
            yield from self._dense(name, self._changes.norm(module, self._trained[name]))
        else:
            yield name, self._checkpoint[name]

    def _linear(self, module: str) -> Iterator[tuple[str, Tensor]]:
        name = f"{module}.weight"
        weight = self._trained[name]
        merged = self._changes.linear(module, weight)
        stored = self._encode(name, merged)
        _require_finite(name, merged, stored)
        if merged is not weight and (found := survival(module, weight, merged, stored, self._encode)):
            self.survivals.append(found)
        yield from stored.tensors.items()

    def _tables(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """The embedding and the head, which part where an adapter changes only one of a tied pair."""
        checkpoint, weights = self._checkpoint, self._changes.weights
        if name == _EMBEDDING:
            embedding = self._changes.embedding(as_float(checkpoint[name]))
            self.vocab_size = embedding.shape[0]
            yield from self._dense(name, embedding)
        if name == _HEAD and not checkpoint.is_tied:
            yield from self._dense(name, self._changes.head(as_float(checkpoint[name])))
        elif name == _EMBEDDING and checkpoint.is_tied and (weights.embedding or weights.head):
            head = self._changes.head(as_float(checkpoint[name]))
            self.untied = not torch.equal(embedding, head)
            if self.untied:
                yield from self._dense(_HEAD, head)

    def _dense(self, name: str, tensor: Tensor | None) -> Iterator[tuple[str, Tensor]]:
        if tensor is not None:
            stored = dense(name, tensor, self._target)
            _require_finite(name, tensor, stored)
            yield from stored.tensors.items()


def _require_finite(name: str, merged: Tensor, stored: Stored) -> None:
    assert merged.dtype == torch.float32, f"{name} is merged in float32"
    if not merged.isfinite().all():
        raise MergeRefused(f"the merged {name} holds NaN or infinity")
    if not stored.values.isfinite().all():
        raise MergeRefused(
            f"the merged {name} is too large for the format that was asked for; write bf16 or fp32"
        )
