"""From an adapter's files in the store to the blob that the engine serves."""

import torch

from adapters.blobs import Blobs
from adapters.errors import InvalidAdapter
from adapters.manifest import BaseShapes, content_digest
from adapters.prepared import load
from server.engine.config import EngineConfig
from server.model.adapter import AdapterBlob, make_blob
from server.model.config import ModelConfig


class AdapterReader:
    """digest -> blob, on a reader thread; what is read is proven to be what the digest names."""

    def __init__(
        self, config: EngineConfig, base: ModelConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._blobs = Blobs(config.adapter_store / "blobs", config.adapter_store / "trash")
        self._max_rank = config.max_rank
        self._base = base
        self._shapes = BaseShapes(base.linear_shapes())
        self._dtype = dtype
        self._pinned = device.type == "cuda"

    def __call__(self, digest: str) -> AdapterBlob:
        """Raises InvalidAdapter or OSError."""
        folder, manifest = self._blobs.folder(digest), self._blobs.manifest(digest)
        if content_digest(manifest.files) != digest:
            raise InvalidAdapter(
                [f"adapter {digest} is damaged in the store: its manifest names other files"]
            )
        weights = load(folder, manifest, self._shapes, self._max_rank).pairs()
        if weights is None:
            raise InvalidAdapter([f"this engine serves low-rank pairs alone, and this is {manifest.kind}"])
        blob = make_blob(weights, self._base, self._dtype)
        # In a masked product 0 * inf would reach other adapters' tokens.
        if not blob.flat.isfinite().all():
            raise InvalidAdapter([f"its weights overflow {self._dtype}, in which this server computes"])
        return blob.pinned() if self._pinned else blob
