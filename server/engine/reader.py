"""From an adapter's files in the store to the blob that the engine serves."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue

import torch
from torch import Tensor

from adapters.blobs import Blobs
from adapters.contents import Contents, Proofs
from adapters.errors import InvalidAdapter
from adapters.manifest import BaseShapes, Manifest, content_digest
from adapters.prepared import load
from server.engine.config import EngineConfig
from server.model.adapter import AdapterBlob, Allocate, make_blob
from server.model.config import ModelConfig

# dtype -> (an integer of its size, everything but the sign, the bit pattern of infinity)
_BITS = {
    torch.float32: (torch.int32, 0x7FFF_FFFF, 0x7F80_0000),
    torch.float16: (torch.int16, 0x7FFF, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7FFF, 0x7F80),
}
# Small enough for a core's cache.
_PART = 1 << 18


class AdapterReader:
    """digest -> blob, on a reader's thread; what is read is proven to be what the digest names."""

    def __init__(self, config: EngineConfig, base: ModelConfig, dtype: torch.dtype) -> None:
        self._blobs = Blobs(config.adapter_store / "blobs", config.adapter_store / "trash")
        self._max_rank = config.max_rank
        self._base = base
        self._shapes = BaseShapes(base.linear_shapes())
        self._dtype = dtype
        self._proofs = Proofs()
        self._hashers = ThreadPoolExecutor(config.adapter_readers, thread_name_prefix="adapter-hasher")
        self._idle: SimpleQueue[Contents] = SimpleQueue()

    def __call__(self, digest: str, allocate: Allocate) -> AdapterBlob:
        """Raises InvalidAdapter or OSError."""
        manifest = self._manifest(digest)
        with self._contents() as contents:
            try:
                blob = self._blob(digest, manifest, contents, allocate)
            finally:
                # First: what was made of wrong bytes is wrong for that reason.
                contents.prove()
        # In a masked product 0 * inf would reach other adapters' tokens.
        if not _is_finite(blob.flat):
            raise InvalidAdapter([f"its weights overflow {self._dtype}, in which this server computes"])
        return blob

    def _manifest(self, digest: str) -> Manifest:
        manifest = self._blobs.manifest(digest)
        if content_digest(manifest.files) != digest:
            raise InvalidAdapter(
                [f"adapter {digest} is damaged in the store: its manifest names other files"]
            )
        return manifest

    def _blob(self, digest: str, manifest: Manifest, contents: Contents, allocate: Allocate) -> AdapterBlob:
        folder = self._blobs.folder(digest)
        weights = load(folder, manifest, self._shapes, self._max_rank, self._dtype, contents.read).pairs()
        if weights is None:
            raise InvalidAdapter([f"this engine serves low-rank pairs alone, and this is {manifest.kind}"])
        return make_blob(weights, self._base, self._dtype, allocate)

    @contextmanager
    def _contents(self) -> Iterator[Contents]:
        """One that no other reader uses: as many are made as there are readers."""
        try:
            contents = self._idle.get_nowait()
        except Empty:
            contents = Contents(self._proofs, self._hashers)
        try:
            yield contents
        finally:
            self._idle.put(contents)


def _is_finite(flat: Tensor) -> bool:
    """By the bits: with the sign cleared, infinities and NaNs are the largest integers."""
    integer, magnitude, infinity = _BITS[flat.dtype]
    return all(int((part & magnitude).max()) < infinity for part in flat.view(integer).split(_PART))
