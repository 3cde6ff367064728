"""The front put together: built, started, drained, stopped."""

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import grpc
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from adapters.store import LocalStore
from lorikeet.v1 import adapters_pb2, inference_pb2
from lorikeet.v1.adapters_pb2_grpc import add_AdaptersServicer_to_server
from lorikeet.v1.inference_pb2_grpc import add_InferenceServicer_to_server
from server.adapter_service import AdapterService
from server.admission import Admission
from server.base import read_base
from server.config import ServerConfig
from server.directory import Directory
from server.engine_metrics import EngineCollector
from server.engine_process import EngineProcess
from server.gate import Gate
from server.health import Health
from server.inference_service import InferenceService
from server.link import EngineLink
from server.metrics import Metrics
from server.scrape import Scrape
from server.texts import Texts

log = logging.getLogger(__name__)

MAX_UPLOADS = 8
# After the drain: calls that are left are cancelled, and get this long to say so.
STOP_SECONDS = 1.0
MINUTE_MS = 60_000

OPTIONS = (
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.max_concurrent_streams", 256),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.absolute_max_metadata_size", 16 << 10),
    # Two servers on one port would share its calls unnoticed.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", MINUTE_MS),
    ("grpc.keepalive_timeout_ms", MINUTE_MS // 3),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", MINUTE_MS // 6),
    # Connections end now and then, so that balancers spread them anew; answers may be that long.
    ("grpc.max_connection_age_ms", 30 * MINUTE_MS),
    ("grpc.max_connection_age_grace_ms", 60 * MINUTE_MS),
)
SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name,
    adapters_pb2.DESCRIPTOR.services_by_name["Adapters"].full_name,
)


class StartableLink(EngineLink, Protocol):
    """A link that the front starts and stops."""

    async def start(self) -> None:
        """Returns once the engine is ready; raises if it never will be."""

    async def stop(self) -> None:
        """Ends the engine."""


LinkFactory = Callable[[ServerConfig], StartableLink]


class Front:
    """The gRPC server of one base model."""

    def __init__(self, config: ServerConfig, link_factory: LinkFactory) -> None:
        base = read_base(config.base)
        metrics = Metrics()
        self._config = config
        self._metrics = metrics
        self._link = link_factory(config)
        metrics.registry.register(EngineCollector(self._link, config.vllm_metrics))
        store = LocalStore(config.adapter_store)
        texts = Texts(config.base, store.folder)
        self._directory = Directory(store, self._link, texts, config.max_rank, config.max_adapter_bytes)
        self._generating = Admission(config.queue_limit, "sequences")
        self._uploading = Admission(MAX_UPLOADS, "uploads")
        self._inference = InferenceService(
            config, base, texts, self._link, self._directory, self._generating, metrics
        )
        self._adapters = AdapterService(self._directory, self._link, self._uploading)
        self._health = Health(self._link, SERVICES)
        self._server: grpc.aio.Server | None = None
        self._starting: asyncio.Task[None] | None = None
        self._scrape: Scrape | None = None
        self.port = 0
        self.drain_seconds = config.drain_seconds

    @property
    def metrics_port(self) -> int:
        return -1 if self._scrape is None else self._scrape.port

    async def start(self) -> None:
        """Listens, not serving until the engine is ready; raises OSError or RuntimeError for a taken port."""
        config = self._config
        server = self._server = grpc.aio.server(interceptors=(Gate(self._metrics),), options=OPTIONS)
        self._add_services(server)
        self.port = server.add_insecure_port(f"{config.host}:{config.port}")
        if config.metrics_port >= 0:
            self._scrape = Scrape(config.host, config.metrics_port, self._metrics.registry)
        await self._health.start()
        await server.start()
        # What a crash left between deletion and collection.
        self._directory.collect()
        self._starting = asyncio.create_task(self._link.start())
        log.info("listening on %s:%d", config.host, self.port)

    async def wait_ready(self) -> None:
        """Returns once the engine is ready; raises what its start raised."""
        assert self._starting is not None, "the front was started"
        await asyncio.shield(self._starting)
        await self._health.refresh()

    async def drain(self, grace: float) -> None:
        """Tells watchers, lets nothing new in, and gives what runs `grace` seconds to end."""
        await self._health.close()
        for admission in (self._generating, self._uploading):
            admission.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._generating.wait_idle()
                await self._uploading.wait_idle()

    async def stop(self) -> None:
        """Ends whatever is left, also after a start that failed."""
        await self._health.close()
        if self._server is not None:
            await self._server.stop(STOP_SECONDS)
        if self._starting is not None:
            await self._stop_link(self._starting)
        await asyncio.to_thread(self._directory.close)
        if self._scrape is not None:
            await asyncio.to_thread(self._scrape.close)

    async def _stop_link(self, starting: asyncio.Task[None]) -> None:
        starting.cancel()
        await asyncio.wait([starting])
        # A link that never came up ended itself.
        if not starting.cancelled() and starting.exception() is None:
            await self._link.stop()

    def _add_services(self, server: grpc.aio.Server) -> None:
        add_InferenceServicer_to_server(self._inference, server)  # type: ignore[no-untyped-call]
        add_AdaptersServicer_to_server(self._adapters, server)  # type: ignore[no-untyped-call]
        add_HealthServicer_to_server(self._health.servicer, server)
        reflection.enable_server_reflection((*SERVICES, reflection.SERVICE_NAME), server)


def run(config: ServerConfig, link_factory: LinkFactory = EngineProcess) -> None:
    """Serves until SIGTERM or SIGINT; raises what kept the server from starting."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(Front(config, link_factory)))


async def _serve(front: Front) -> None:
    try:
        await front.start()
        told = asyncio.create_task(_signal())
        ready = asyncio.create_task(front.wait_ready())
        await asyncio.wait((told, ready), return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            await ready
            log.info("ready")
        await told
        await front.drain(front.drain_seconds)
    finally:
        await front.stop()


async def _signal() -> None:
    """Returns at the first SIGTERM or SIGINT; a second one is no longer caught."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed."""
    if find_spec("uvloop") is None:
        return None
    uvloop: Any = import_module("uvloop")
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
