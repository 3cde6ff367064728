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

from adapters.grants import Grants
from adapters.opening import open_store
from adapters.quota import Quota
from adapters.store import Store
from adapters.uploads import UploadLimits
from lorikeet.v1 import adapters_pb2, grants_pb2, inference_pb2
from lorikeet.v1.adapters_pb2_grpc import add_AdaptersServicer_to_server
from lorikeet.v1.grants_pb2_grpc import add_GrantsServicer_to_server
from lorikeet.v1.inference_pb2_grpc import add_InferenceServicer_to_server
from server.adapter_service import AdapterService
from server.admission import Admission
from server.audit import AuditLog
from server.base import read_base
from server.config import ServerConfig, is_loopback
from server.directory import Directory
from server.engine_metrics import EngineCollector
from server.engine_process import EngineProcess
from server.gate import Gate
from server.grant_service import GrantService
from server.health import Health
from server.identity.build import build_access, build_credentials
from server.identity.tenants import open_tenants
from server.inference_service import InferenceService
from server.journal import Journal
from server.link import EngineLink
from server.metrics import Metrics
from server.quotas import Quotas
from server.scrape import Scrape
from server.texts import Texts
from server.tiers import Tiers
from server.trace import NoSpans, Spans
from server.uploading import Uploading

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
    grants_pb2.DESCRIPTOR.services_by_name["Grants"].full_name,
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
        metrics = Metrics(config.metrics_tenants)
        self._config = config
        self._metrics = metrics
        self._tenants = open_tenants(config.tenants)
        self._access = build_access(config, self._tenants)
        self._credentials = build_credentials(config)
        self._spans = _open_spans(config.otlp_endpoint)
        self._link = link_factory(config)
        metrics.registry.register(EngineCollector(self._link, config.vllm_metrics))
        store = _open_store(config)
        grants = Grants(config.adapter_folder / "grants.json")
        self._directory = directory = Directory(store, grants, self._link.news)
        texts = Texts(config.base, lambda digest: store.folder(digest, directory.is_held))
        self._uploads = Uploading(directory, self._link, texts, config.max_rank, config.max_adapter_bytes)
        self._tiers = Tiers(directory, self._link)
        self._journal = Journal(AuditLog(config.audit_folder, config.audit_file_bytes))
        self._generating = Admission(config.queue_limit, "sequences")
        self._uploading = Admission(MAX_UPLOADS, "uploads")
        quotas = Quotas(self._tenants)
        self._inference = InferenceService(
            config, base, texts, self._link, self._directory, self._generating, quotas, self._spans, metrics
        )
        self._adapters = AdapterService(
            self._directory, self._uploads, self._tiers, self._link, self._uploading, self._journal
        )
        self._grants = GrantService(self._directory)
        self._health = Health(self._link, SERVICES)
        self._server: grpc.aio.Server | None = None
        self._starting: asyncio.Task[None] | None = None
        self._keeping: list[asyncio.Task[None]] = []
        self._scrape: Scrape | None = None
        self.port = 0
        self.drain_seconds = config.drain_seconds

    @property
    def metrics_port(self) -> int:
        return -1 if self._scrape is None else self._scrape.port

    async def start(self) -> None:
        """Listens, not serving until the engine is ready; raises OSError or RuntimeError for a taken port."""
        config = self._config
        gate = Gate(self._metrics, self._access, self._spans)
        server = self._server = grpc.aio.server(interceptors=(gate,), options=OPTIONS)
        self._add_services(server)
        self.port = self._listen(server, f"{config.host}:{config.port}")
        if config.metrics_port >= 0:
            host = config.metrics_host or config.host
            self._scrape = Scrape(host, config.metrics_port, self._metrics.registry)
        await self._health.start()
        await server.start()
        # What a crash left between deletion and collection.
        self._directory.collect()
        self._starting = asyncio.create_task(self._link.start())
        self._keeping = [
            asyncio.create_task(self._tiers.keep()),
            asyncio.create_task(self._directory.keep_fresh(config.store_refresh_seconds)),
        ]
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
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        await asyncio.to_thread(self._close_store)
        await asyncio.to_thread(self._spans.close)
        if self._scrape is not None:
            await asyncio.to_thread(self._scrape.close)

    async def _stop_link(self, starting: asyncio.Task[None]) -> None:
        starting.cancel()
        await asyncio.wait([starting])
        # A link that never came up ended itself.
        if not starting.cancelled() and starting.exception() is None:
            await self._link.stop()

    def _close_store(self) -> None:
        self._uploads.close()
        self._directory.close()
        self._journal.close()

    def _listen(self, server: grpc.aio.Server, address: str) -> int:
        if self._credentials is not None:
            return server.add_secure_port(address, self._credentials)
        if not is_loopback(self._config.host):
            log.warning("without TLS, keys travel in the clear: let %s be reached by a proxy alone", address)
        return server.add_insecure_port(address)

    def _add_services(self, server: grpc.aio.Server) -> None:
        add_InferenceServicer_to_server(self._inference, server)  # type: ignore[no-untyped-call]
        add_AdaptersServicer_to_server(self._adapters, server)  # type: ignore[no-untyped-call]
        add_GrantsServicer_to_server(self._grants, server)  # type: ignore[no-untyped-call]
        add_HealthServicer_to_server(self._health.servicer, server)
        if self._config.reflection:
            reflection.enable_server_reflection((*SERVICES, reflection.SERVICE_NAME), server)


def _open_spans(endpoint: str) -> Spans:
    """Raises ModuleNotFoundError where spans are asked for and the extra `otel` is missing."""
    if not endpoint:
        return NoSpans()
    opened: Spans = import_module("server.otel").OtelSpans(endpoint)
    return opened


def _open_store(config: ServerConfig) -> Store:
    return open_store(
        config.adapter_store,
        config.adapter_cache,
        config.adapter_cache_bytes,
        config.s3_endpoint,
        Quota(config.max_adapters, config.max_adapter_store_bytes, config.max_pinned_adapters),
        UploadLimits(config.upload_hours * 3600, config.upload_bytes),
    )


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
