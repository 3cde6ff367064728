"""Stored adapters for the engine: read as they were packed, or packed first."""

import logging
from dataclasses import replace
from pathlib import Path

from adapters.blobs import Blobs
from adapters.config_keys import MERGE
from adapters.contents import Proofs
from adapters.deltas.assemble import MAX_ERROR
from adapters.deltas.context import Base
from adapters.errors import InvalidAdapter
from adapters.manifest import BaseShapes, Manifest, content_digest
from adapters.normal import LowRank
from adapters.prepared import is_prepared, load, prepare, updates_of
from server.engine.config import EngineConfig
from server.engine.maker import Maker
from server.engine.packers import Packers
from server.model.adapter import AdapterBlob, Allocate
from server.model.decoder import Decoder
from server.model.probe import Probe
from server.model.provider import ServedWeights

log = logging.getLogger(__name__)


class AdapterReader:
    """Adapters over the base as it is served; for threads beside the one that steps."""

    def __init__(self, config: EngineConfig, decoder: Decoder, shapes: BaseShapes) -> None:
        self._blobs = Blobs(config.adapter_store / "blobs", config.adapter_store / "trash")
        self._max_rank = config.max_rank
        served = ServedWeights(decoder)
        self._base = Base(shapes, served.weight, served.bias)
        self._probe = Probe(decoder, self._base)
        # Where the configuration came from is nothing that another process needs.
        own = replace(decoder.config, source=None)
        self._maker = Maker(own, shapes, config.max_rank, decoder.embedding.dtype)
        self._packers = Packers(decoder.embedding.is_cuda, self._maker)
        self._proofs = Proofs()

    def __call__(self, digest: str, allocate: Allocate) -> AdapterBlob:
        """A stored adapter, proven to be what the digest names. Raises InvalidAdapter or OSError.

        One that was prepared for another base, or for this one in another quantization, is prepared anew.
        `allocate` may be asked again: what it gave before is not in use then.
        """
        folder, manifest = self._blobs.folder(digest), self._blobs.manifest(digest)
        if content_digest(manifest.files) != digest:
            raise InvalidAdapter(
                [f"adapter {digest} is damaged in the store: its manifest names other files"]
            )
        blob = self._maker.find(folder, manifest, allocate, self._proofs)
        return blob or self._make(folder, manifest, allocate)

    def prepare(self, folder: Path, manifest: Manifest) -> Manifest:
        """Makes an uploaded adapter ready; its manifest then says how exact it is. Raises InvalidAdapter."""
        if not manifest.direct:
            conversion = prepare(folder, manifest, self._base, self._max_rank)
            error = self._logit_error(folder, manifest)
            manifest = replace(manifest, conversion=replace(conversion, logit_error=error))
        self._packers.run(self._maker.pack, folder, manifest)
        return manifest

    def _make(self, folder: Path, manifest: Manifest, allocate: Allocate) -> AdapterBlob:
        """Of its files, packed for the next time if the disk lets us."""
        if not is_prepared(folder, manifest, self._base.shapes.fingerprint):
            prepare(folder, manifest, self._base, self._max_rank)
        try:
            self._packers.run(self._maker.pack, folder, manifest)
        except OSError as error:
            log.warning("adapter %s cannot be packed (%s) and is made at each load", manifest.digest, error)
        blob = self._maker.find(folder, manifest, allocate, self._proofs)
        return blob or self._maker.make(folder, manifest, allocate)

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
