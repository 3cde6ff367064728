"""Host memory and device: bringing adapters there ahead of requests, and keeping them there."""

import asyncio
import logging

from adapters.errors import AdapterError
from adapters.store import AdapterVersion
from server.directory import Directory
from server.engine.messages import HOST, Ready
from server.errors import AdapterUnusable
from server.link import EngineLink, require_ready
from server.places import Places

WARM_SECONDS = 60.0

log = logging.getLogger(__name__)


class Tiers:
    """Belongs to the event loop's thread."""

    def __init__(self, directory: Directory, link: EngineLink, patience: float = WARM_SECONDS) -> None:
        self._directory = directory
        self._link = link
        self._patience = patience

    async def warm(self, version: AdapterVersion, tier: str) -> None:
        """Returns once the adapter is there. Raises NotReady, or AdapterUnusable if it does not get there."""
        require_ready(self._link)
        with self._directory.holds.hold(version):
            await self._directory.fetch(version.digest)
            places = self._link.places
            has_loaded = version.digest not in places.resident
            self._link.warm(version.digest, tier)
            await self._arrival(version, tier)
            places.warmed(version.tenant, version.digest, tier, has_loaded)

    async def pin(self, version: AdapterVersion, tier: str) -> None:
        """Keeps it there from now on, over restarts; `keep` tells the engine. Raises StoreQuotaExceeded."""
        pins = self._directory.store.pins
        await self._directory.change(lambda: pins.pin(version.tenant, version.name, version.version, tier))

    async def unpin(self, version: AdapterVersion) -> None:
        pins = self._directory.store.pins
        await self._directory.change(lambda: pins.unpin(version.tenant, version.name, version.version))

    async def keep(self) -> None:
        """Tells each engine of the pins there are, and of those that come and go."""
        engine: Ready | None = None
        told: dict[str, str] = {}
        async for _ in self._directory.news.looks():
            wanted = self._directory.store.pins.all()
            self._directory.pinned = frozenset(wanted)
            if self._link.ready is not engine:
                engine, told = self._link.ready, {}
            if engine is not None and told != wanted:
                told = await self._bring_in_line(told, wanted)

    async def _bring_in_line(self, told: dict[str, str], wanted: dict[str, str]) -> dict[str, str]:
        for digest in told.keys() - wanted.keys():
            self._link.unpin(digest)
        for digest, tier in wanted.items():
            if told.get(digest) != tier and await self._is_here(digest):
                self._link.pin(digest, tier)
        return wanted

    async def _is_here(self, digest: str) -> bool:
        try:
            await self._directory.fetch(digest)
        except AdapterError as error:
            log.error("the pinned adapter %s is not here: %s", digest[:12], error)
            return False
        return True

    async def _arrival(self, version: AdapterVersion, tier: str) -> None:
        try:
            async with asyncio.timeout(self._patience):
                async for _ in self._directory.news.looks(version.digest):
                    if _is_at(version.digest, tier, self._link.places):
                        return
                    self._raise_refusal(version)
        except TimeoutError as error:
            name = f"{version.name}@{version.version}"
            raise AdapterUnusable(
                name,
                f"{name} was not there within {self._patience:g} seconds; is all memory held by running "
                "requests or pins?",
            ) from error

    def _raise_refusal(self, version: AdapterVersion) -> None:
        for refusal in self._link.places.refusals:
            if refusal.digest == version.digest:
                name = f"{version.name}@{version.version}"
                raise AdapterUnusable(name, f"{name} cannot be brought there: {refusal.message}")


def _is_at(digest: str, tier: str, places: Places) -> bool:
    """On the device is also good enough for who wants it in host memory."""
    return digest in places.resident or (tier == HOST and digest in places.on_host)
