"""From an adapter's files to the blob that the engine serves."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue

from adapters.blobs import Blobs
from adapters.config_keys import MERGE
from adapters.contents import Contents, Proofs
from adapters.deltas.assemble import MAX_ERROR
from adapters.deltas.context import Base
from adapters.errors import InvalidAdapter
from adapters.manifest import BaseShapes, Manifest, content_digest
from adapters.normal import LowRank
from adapters.prepared import is_prepared, load, prepare, updates_of
from server.engine.config import EngineConfig
from server.model.adapter import AdapterBlob, Allocate
from server.model.blob import make_blob
from server.model.decoder import Decoder
from server.model.probe import Probe
from server.model.provider import ServedWeights


class AdapterReader:
    """Adapters over the base as it is served; for threads beside the one that steps."""

    def __init__(self, config: EngineConfig, decoder: Decoder, shapes: BaseShapes) -> None:
        self._blobs = Blobs(config.adapter_store / "blobs", config.adapter_store / "trash")
        self._max_rank = config.max_rank
        self._config = decoder.config
        self._dtype = decoder.embedding.dtype
        served = ServedWeights(decoder)
        self._base = Base(shapes, served.weight, served.bias)
        self._probe = Probe(decoder, self._base)
        self._proofs = Proofs()
        self._hashers = ThreadPoolExecutor(config.adapter_readers, thread_name_prefix="adapter-hasher")
        self._idle: SimpleQueue[Contents] = SimpleQueue()

    def __call__(self, digest: str, allocate: Allocate) -> AdapterBlob:
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
        return self._read(folder, manifest, allocate)

    def prepare(self, folder: Path, manifest: Manifest) -> Manifest:
        """Makes an uploaded adapter ready; its manifest then says how exact it is. Raises InvalidAdapter."""
        if not manifest.direct:
            conversion = prepare(folder, manifest, self._base, self._max_rank)
            error = self._logit_error(folder, manifest)
            manifest = replace(manifest, conversion=replace(conversion, logit_error=error))
        self._read(folder, manifest)
        return manifest

    def _logit_error(self, folder: Path, manifest: Manifest) -> float | None:
        """Of updates that were turned into pairs. Raises InvalidAdapter where it is too much."""
        updates = updates_of(folder, manifest, self._base, self._max_rank)
        if updates is None:
            return None
        linears = load(folder, manifest, self._base.shapes, self._max_rank).linears

        def pair_of(name: str) -> LowRank | None:
            return linears[name].low_rank if name in linears else None

        error = self._probe.error(updates, pair_of)
        if error is not None and not error <= MAX_ERROR:
            raise InvalidAdapter(
                [
                    f"its logits over this base are {error:.2g} off as pairs of rank {self._max_rank}, "
                    f"and at most {MAX_ERROR:g} is served; {MERGE}"
                ]
            )
        return error

    def _read(self, folder: Path, manifest: Manifest, allocate: Allocate | None = None) -> AdapterBlob:
        with self._contents() as contents:
            try:
                read = contents.read
                weights = load(folder, manifest, self._base.shapes, self._max_rank, self._dtype, read)
                blob = make_blob(weights, self._config, self._dtype, allocate)
            finally:
                # First: what was made of wrong bytes is wrong for that reason.
                contents.prove()
        # In a masked product 0 * inf would reach other adapters' tokens.
        if what := blob.overflows():
            raise InvalidAdapter([f"its {what} overflows {self._dtype}, in which this server computes"])
        return blob

    @contextmanager
    def _contents(self) -> Iterator[Contents]:
        """One that no other thread uses: as many are made as there are threads that read."""
        try:
            contents = self._idle.get_nowait()
        except Empty:
            contents = Contents(self._proofs, self._hashers)
        try:
            yield contents
        finally:
            self._idle.put(contents)
