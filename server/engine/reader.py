"""From an adapter's files in the store to the blob that the engine serves."""

import torch

from adapters.blobs import Blobs
from adapters.errors import InvalidAdapter
from adapters.files import CONFIG_NAME
from adapters.manifest import content_digest
from adapters.normal import load
from adapters.peft_config import read_config
from adapters.targets import find_targets
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
        self._shapes = base.linear_shapes()
        self._dtype = dtype
        self._pinned = device.type == "cuda"

    def __call__(self, digest: str) -> AdapterBlob:
        """Raises InvalidAdapter or OSError."""
        folder, manifest = self._blobs.folder(digest), self._blobs.manifest(digest)
        if content_digest(manifest.files) != digest:
            raise InvalidAdapter(
                [f"adapter {digest} is damaged in the store: its manifest names other files"]
            )
        # The digest covers the files and not the manifest, so what that says of scales is found again.
        if manifest.targets != find_targets(read_config(folder / CONFIG_NAME, self._max_rank), self._shapes):
            raise InvalidAdapter(["it was checked against another base, or its manifest was changed on disk"])
        weights = load(folder, manifest)
        for name, pair in weights.items():
            if (pair.b.shape[0], pair.a.shape[1]) != self._shapes[name]:
                raise InvalidAdapter([f"{name} does not fit this base; the adapter was made for another one"])
        blob = make_blob(weights, self._base, self._dtype)
        # In a masked product 0 * inf would reach other adapters' tokens.
        if not blob.flat.isfinite().all():
            raise InvalidAdapter([f"its weights overflow {self._dtype}, in which this server computes"])
        return blob.pinned() if self._pinned else blob
