"""From an adapter's files, or from what was prepared of them, to the blob that the engine serves."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from adapters.contents import Proofs
from adapters.durable import make_folder
from adapters.errors import InvalidAdapter
from adapters.manifest import BaseShapes, Manifest
from adapters.prepared import PREPARED, load
from server.model.adapter import AdapterBlob, Allocate
from server.model.blob import make_blob
from server.model.config import ModelConfig
from server.model.packed import key_of, read_packed, write_packed


@dataclass(frozen=True)
class Maker:
    """For the base as it is served; another process can be sent it."""

    config: ModelConfig
    shapes: BaseShapes
    max_rank: int
    dtype: torch.dtype

    def make(self, folder: Path, manifest: Manifest, allocate: Allocate | None = None) -> AdapterBlob:
        """Proven to be what the manifest names, every number finite. Raises InvalidAdapter or OSError."""
        weights = load(folder, manifest, self.shapes, self.max_rank, self.dtype)
        blob = make_blob(weights, self.config, self.dtype, allocate)
        # In a masked product 0 * inf would reach other adapters' tokens.
        if what := blob.overflows():
            raise InvalidAdapter([f"its {what} overflows {self.dtype}, in which this server computes"])
        return blob

    def pack(self, folder: Path, manifest: Manifest) -> None:
        """Makes it and leaves it beside the files. Raises InvalidAdapter, or OSError."""
        blob = self.make(folder, manifest)
        make_folder(folder / PREPARED)
        write_packed(self._path(folder), self._key(manifest), blob)

    def find(
        self, folder: Path, manifest: Manifest, allocate: Allocate, proofs: Proofs
    ) -> AdapterBlob | None:
        """What `pack` left, if it is whole and made of this manifest for this base, dtype and rank."""
        return read_packed(self._path(folder), self._key(manifest), self.dtype, allocate, proofs)

    def _path(self, folder: Path) -> Path:
        return folder / PREPARED / f"{self._served[:16]}.packed"

    def _key(self, manifest: Manifest) -> str:
        return key_of(self._served, manifest.to_json())

    @cached_property
    def _served(self) -> str:
        return key_of(self.shapes.to_json(), self.dtype, self.max_rank)
