"""From an adapter's files to the blob that the engine serves."""

from dataclasses import replace
from pathlib import Path

from adapters.blobs import Blobs
from adapters.deltas.context import Base
from adapters.errors import InvalidAdapter
from adapters.manifest import BaseShapes, Manifest, content_digest
from adapters.prepared import is_prepared, load, prepare
from server.engine.config import EngineConfig
from server.model.adapter import AdapterBlob
from server.model.blob import make_blob
from server.model.decoder import Decoder
from server.model.provider import ServedWeights


class AdapterReader:
    """Adapters over the base as it is served; for threads beside the one that steps."""

    def __init__(self, config: EngineConfig, decoder: Decoder, shapes: BaseShapes) -> None:
        self._blobs = Blobs(config.adapter_store / "blobs", config.adapter_store / "trash")
        self._max_rank = config.max_rank
        self._config = decoder.config
        self._dtype = decoder.embedding.dtype
        self._pinned = decoder.embedding.is_cuda
        served = ServedWeights(decoder)
        self._base = Base(shapes, served.weight, served.bias)

    def __call__(self, digest: str) -> AdapterBlob:
        """A stored adapter, proven to be what the digest names. Raises InvalidAdapter or OSError.

        One that was prepared for another base, or for this one in another quantization, is prepared anew.
        """
        folder, manifest = self._blobs.folder(digest), self._blobs.manifest(digest)
        if content_digest(manifest.files) != digest:
            raise InvalidAdapter(
                [f"adapter {digest} is damaged in the store: its manifest names other files"]
            )
        if not is_prepared(folder, manifest, self._base.shapes.fingerprint):
            prepare(folder, manifest, self._base, self._max_rank)
        blob = self._read(folder, manifest)
        return blob.pinned() if self._pinned else blob

    def prepare(self, folder: Path, manifest: Manifest) -> Manifest:
        """Makes an uploaded adapter ready; its manifest then says how exact it is. Raises InvalidAdapter."""
        if not manifest.direct:
            conversion = prepare(folder, manifest, self._base, self._max_rank)
            manifest = replace(manifest, conversion=conversion)
        self._read(folder, manifest)
        return manifest

    def _read(self, folder: Path, manifest: Manifest) -> AdapterBlob:
        blob = make_blob(load(folder, manifest, self._base.shapes, self._max_rank), self._config, self._dtype)
        # In a masked product 0 * inf would reach other adapters' tokens.
        if what := blob.overflows():
            raise InvalidAdapter([f"its {what} overflows {self._dtype}, in which this server computes"])
        return blob
