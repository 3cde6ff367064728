"""Where a request is let in or refused before any work: deadline, places, quota, adapter."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Protocol

import msgspec

from adapters.store import AdapterVersion
from server.admission import Admission
from server.directory import Directory
from server.forecast import Forecast
from server.quotas import Quotas, Share


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=True, kw_only=True):
    """What a request is let in for. `id`: of the asking front's own; `left`: seconds of its deadline."""

    id: int = 0
    tenant: str
    # Empty for the base.
    adapter_id: str = ""
    session_id: str = ""
    num_sequences: int
    # Of each sequence, at most.
    max_new_tokens: int
    priority: int = 0
    left: float | None = None


class Place(Protocol):
    """What a request has while it is in."""

    @property
    def adapter(self) -> AdapterVersion | None:
        """Held until the request leaves; None for the base."""

    @property
    def weight(self) -> float:
        """The tenant's."""

    async def reserve_prompt(self, num_tokens: int) -> None:
        """Raises QuotaExceeded."""

    def begin(self, seconds: float) -> None:
        """One of its sequences has its first token, so many seconds after the request came."""

    def spend(self, num_tokens: int) -> None:
        """Tokens of an answer were given out."""


class Desk(Protocol):
    def place(self, ask: Ask) -> AbstractAsyncContextManager[Place]:
        """In until the block ends.

        Raises DeadlineUnreachable, NotReady, QueueFull, QuotaExceeded or NoSuchAdapter; from the block
        AdapterDeleted, if its adapter is deleted by force.
        """

    def adapter(self, tenant: str, adapter_id: str) -> AbstractAsyncContextManager[AdapterVersion | None]:
        """The version that is meant, held until the block ends. Raises NoSuchAdapter."""


class OwnDesk:
    """The one desk of a server, whichever of its fronts a request came to."""

    def __init__(self, directory: Directory, admission: Admission, quotas: Quotas) -> None:
        self.forecast = Forecast()
        self._directory = directory
        self._admission = admission
        self._quotas = quotas

    @asynccontextmanager
    async def place(self, ask: Ask) -> AsyncIterator["OwnPlace"]:
        with self.share(ask) as share:
            async with self.seat(ask, share) as place:
                yield place

    @contextmanager
    def share(self, ask: Ask) -> Iterator[Share]:
        """The first half of a place, settled at its end. Raises what `place` does, but for the adapter's."""
        num_queued = self._quotas.num_queued(ask.tenant)
        self.forecast.require(ask.tenant, ask.priority, num_queued, ask.left)
        admitted, quota = self._admission.admit, self._quotas.admit
        with admitted(ask.num_sequences), quota(ask.tenant, ask.num_sequences) as share:
            share.reserve_answers(ask.num_sequences, ask.max_new_tokens)
            yield share

    @asynccontextmanager
    async def seat(self, ask: Ask, share: Share) -> AsyncIterator["OwnPlace"]:
        """The second half, which ends first. Raises NoSuchAdapter, and AdapterDeleted from the block."""
        async with self.adapter(ask.tenant, ask.adapter_id, ask.session_id) as adapter:
            yield OwnPlace(ask, adapter, share, self.forecast)

    @asynccontextmanager
    async def adapter(
        self, tenant: str, adapter_id: str, session_id: str = ""
    ) -> AsyncIterator[AdapterVersion | None]:
        if not adapter_id:
            yield None
            return
        async with self._directory.hold(tenant, adapter_id, session_id) as version:
            yield version


class OwnPlace:
    def __init__(self, ask: Ask, adapter: AdapterVersion | None, share: Share, forecast: Forecast) -> None:
        self.adapter = adapter
        self.weight = share.limits.weight
        self._ask = ask
        self._share = share
        self._forecast = forecast

    async def reserve_prompt(self, num_tokens: int) -> None:
        self._share.reserve_prompt(num_tokens)

    def begin(self, seconds: float) -> None:
        self._share.begin()
        self._forecast.learn(self._ask.tenant, self._ask.priority, seconds)

    def spend(self, num_tokens: int) -> None:
        self._share.spend(num_tokens)

    def forfeit(self) -> None:
        """Nothing of what was reserved comes back: nobody knows how much of it was used."""
        self._share.forfeit()
