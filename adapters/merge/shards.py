"""Tensors that come one by one -> safetensors files of bounded size, their index, and their sha256."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from adapters.durable import sync_folder
from adapters.merge.checkpoint import INDEX_NAME


class ShardWriter:
    """Holds the tensors of one shard at a time; `close` gives the files their names."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._pending: dict[str, Tensor] = {}
        self._num_pending = 0
        self._shards: list[list[str]] = []
        self._num_bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if self._pending and self._num_pending + size > self._max_bytes:
            self._flush()
        # A view of a mapped file would keep that file in memory until the shard is written.
        self._pending[name] = tensor.contiguous().clone()
        self._num_pending += size
        self._num_bytes += size

    def close(self) -> list[Path]:
        """Writes the last shard and the index; the files, in order."""
        self._flush()
        count = len(self._shards)
        if count == 1:
            os.rename(self._draft(0), self._folder / "model.safetensors")
            return [self._folder / "model.safetensors"]
        named, weight_map = [], {}
        for number, names in enumerate(self._shards):
            file = self._folder / f"model-{number + 1:05}-of-{count:05}.safetensors"
            os.rename(self._draft(number), file)
            named.append(file)
            weight_map.update(dict.fromkeys(names, file.name))
        index = {"metadata": {"total_size": self._num_bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (self._folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        return named

    def _flush(self) -> None:
        if self._pending:
            save_file(self._pending, self._draft(len(self._shards)), {"format": "pt"})
            self._shards.append(list(self._pending))
            self._pending, self._num_pending = {}, 0

    def _draft(self, number: int) -> Path:
        return self._folder / f"{number}.draft"


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file, which are synced to disk on the way."""
    found = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    sync_folder(folder)
    return found
