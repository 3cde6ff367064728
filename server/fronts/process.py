"""A front that owns nothing: who calls, what the text is, and the way to the front that does."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import grpc
import msgspec
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from adapters.blobs import Blobs
from lorikeet.v1.inference_pb2_grpc import add_InferenceServicer_to_server
from server.base import read_base
from server.books import Books
from server.config import ServerConfig
from server.fronts.crew import CALLS, TALK
from server.fronts.forward import CHANNEL_OPTIONS, Forward
from server.fronts.messages import (
    Drain,
    End,
    Figures,
    Lost,
    Refused,
    Reserved,
    Said,
    Seated,
    State,
    Told,
    Welcome,
)
from server.fronts.pipe import Pipe
from server.fronts.remote import RemoteDesk, RemoteLink
from server.fronts.sums import figures_of
from server.gate import Gate
from server.health import Health
from server.identity.build import build_access, build_credentials
from server.identity.tenants import open_tenants
from server.inference_service import InferenceService
from server.listener import ADAPTERS, GRANTS, SERVICES, STOP_SECONDS, listen, make_server
from server.metrics import Metrics
from server.running import loop_factory, settle, told_to_end
from server.texts import Texts
from server.trace import open_spans

FIGURES_SECONDS = 1.0

log = logging.getLogger("server.fronts.process")


class Since:
    """What tenants used since it was last asked."""

    def __init__(self) -> None:
        self._uses: dict[str, dict[str, float]] = {}

    def add(self, tenant: str, **counts: float) -> None:
        use = self._uses.setdefault(tenant, {})
        for name, number in counts.items():
            use[name] = use.get(name, 0.0) + number

    def take(self) -> dict[str, dict[str, float]]:
        uses, self._uses = self._uses, {}
        return uses


class FurtherFront:
    """Belongs to one event loop. The answers are `InferenceService`'s, as at the first front."""

    def __init__(
        self, folder: Path, pipe: Pipe[Told], welcome: Welcome, messages: AsyncIterator[Told]
    ) -> None:
        """messages: what comes after the welcome."""
        config = self._config = msgspec.json.decode(
            welcome.config, type=ServerConfig, dec_hook=lambda kind, value: Path(value)
        )
        self._pipe = pipe
        self._messages = messages
        self._port = welcome.port
        self._used = Since()
        self._metrics = Metrics(self._used)
        self._link = RemoteLink(pipe, welcome.number)
        self._desk = RemoteDesk(pipe)
        self._health = Health(self._link, SERVICES)
        self._spans = open_spans(config.otlp_endpoint)
        self._ending = asyncio.Event()
        self._channel = grpc.aio.insecure_channel(f"unix:{folder}/{CALLS}", options=CHANNEL_OPTIONS)
        self._server = self._make_server(config)

    async def run(self) -> None:
        """Serves until it is told to end, by the first front or a signal, or until the first front dies."""
        listen(self._server, self._config, build_credentials(self._config), self._port)
        await self._health.start()
        await self._server.start()
        settle()
        log.info("listening on %s:%d", self._config.host, self._port)
        counting = asyncio.create_task(self._keep_counting())
        hearing = asyncio.create_task(self._hear())
        signalled = asyncio.create_task(told_to_end())
        done, _ = await asyncio.wait((hearing, signalled), return_when=asyncio.FIRST_COMPLETED)
        if hearing in done:
            await hearing
        await self._health.close()
        # Alone, it lets its calls end; nobody waits longer for it than for the whole server.
        await self._server.stop(STOP_SECONDS if hearing in done else self._config.drain_seconds)
        for task in (counting, hearing, signalled):
            task.cancel()
        self._count()
        await self._channel.close(None)
        await asyncio.to_thread(self._spans.close)
        await asyncio.to_thread(self._texts.close)

    def _make_server(self, config: ServerConfig) -> grpc.aio.Server:
        tenants = open_tenants(config.tenants)
        gate = Gate(build_access(config, tenants), Books(self._metrics, self._spans))
        blobs = Blobs(config.adapter_folder / "blobs", config.adapter_folder / "trash")
        texts = self._texts = Texts(config.base, blobs.folder)
        inference = InferenceService(
            config,
            read_base(config.base),
            texts,
            self._link,
            self._desk,
            tenants,
            self._spans,
            self._metrics,
        )
        server = make_server(config, (gate,))
        add_InferenceServicer_to_server(inference, server)  # type: ignore[no-untyped-call]
        add_HealthServicer_to_server(self._health.servicer, server)
        server.add_generic_rpc_handlers((Forward(self._channel, (ADAPTERS, GRANTS)),))
        return server

    async def _hear(self) -> None:
        """Returns when the first front says so; raises ConnectionError when it is gone."""
        async for message in self._messages:
            match message:
                case State() | Said() | Lost():
                    self._link.take(message)
                case Seated() | Reserved() | Refused():
                    self._desk.take(message)
                case Drain():
                    await self._health.close()
                case End():
                    return
        raise ConnectionError("the first front is gone")

    async def _keep_counting(self) -> None:
        while True:
            await asyncio.sleep(FIGURES_SECONDS)
            self._count()

    def _count(self) -> None:
        self._pipe.tell(Figures(figures_of(self._metrics.registry), self._used.take()))


async def _serve(folder: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(folder / TALK)
    pipe: Pipe[Told] = Pipe(reader, writer, Told)
    messages = pipe.messages()
    welcome = await anext(messages)
    assert isinstance(welcome, Welcome), "the first front begins"
    try:
        await FurtherFront(folder, pipe, welcome, messages).run()
    finally:
        await pipe.close()


def main() -> int:
    """`python -m server.fronts.process FOLDER`: of the fronts' sockets."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s front %(process)d %(levelname)s %(name)s: %(message)s"
    )
    with asyncio.Runner(loop_factory=loop_factory()) as runner, suppress(ConnectionError):
        runner.run(_serve(Path(sys.argv[1])))
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
