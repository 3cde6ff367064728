"""The front put together: built, started, drained, stopped."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import grpc
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from adapters.grants import Grants
from adapters.opening import open_store
from adapters.quota import Quota
from adapters.uploads import UploadLimits
from lorikeet.v1.adapters_pb2_grpc import add_AdaptersServicer_to_server
from lorikeet.v1.grants_pb2_grpc import add_GrantsServicer_to_server
from lorikeet.v1.inference_pb2_grpc import add_InferenceServicer_to_server
from server.adapter_service import AdapterService
from server.admission import Admission
from server.audit import AuditLog
from server.base import read_base
from server.books import Books
from server.config import ServerConfig
from server.desk import OwnDesk
from server.directory import Directory
from server.engine_process import EngineProcess
from server.fronts.crew import Crew
from server.gate import Gate
from server.grant_service import GrantService
from server.health import Health
from server.identity.build import build_access, build_credentials
from server.identity.tenants import open_tenants
from server.inference_service import InferenceService
from server.journal import Journal
from server.link import EngineLink
from server.listener import SERVICES, STOP_SECONDS, listen, make_server, require_free
from server.quotas import Quotas
from server.running import loop_factory, settle, told_to_end
from server.telemetry import Telemetry
from server.texts import Texts
from server.tiers import Tiers
from server.uploading import Uploading
from server.using import UsingLink

log = logging.getLogger(__name__)

# Each holds a message of 1 MiB at a time; those that are here whole wait in line to be checked.
MAX_UPLOADS = 64


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
        base, tenants = read_base(config.base), open_tenants(config.tenants)
        self._config = config
        self._access = build_access(config, tenants)
        self._credentials = build_credentials(config)
        link = self._link = link_factory(config)
        told = self._telemetry = Telemetry(config, link)
        directory = self._directory = _open_directory(config, link)
        texts = self._texts = Texts(config.base, directory.folder)
        uploads = self._uploads = Uploading(directory, link, texts, config.max_rank, config.max_adapter_bytes)
        tiers = self._tiers = Tiers(directory, link)
        journal = self._journal = Journal(AuditLog(config.audit_folder, config.audit_file_bytes))
        self._generating = Admission(config.queue_limit, "sequences")
        self._uploading = Admission(MAX_UPLOADS, "uploads")
        using = self._using = UsingLink(link)
        desk = self._desk = OwnDesk(directory, self._generating, Quotas(tenants))
        self._inference = InferenceService(
            config, base, texts, using, desk, tenants, told.spans, told.metrics
        )
        self._adapters = AdapterService(directory, uploads, tiers, link, self._uploading, journal)
        self._health = Health(link, SERVICES)
        self._server: grpc.aio.Server | None = None
        self._crew: Crew | None = None
        self._starting: asyncio.Task[None] | None = None
        self._keeping: list[asyncio.Task[None]] = []
        self.port = 0

    @property
    def metrics_port(self) -> int:
        return self._telemetry.port

    async def start(self) -> None:
        """Listens, not serving until the engine is ready; raises OSError or RuntimeError for a taken port."""
        config = self._config
        gate = Gate(self._access, Books(self._telemetry.metrics, self._telemetry.spans))
        server = self._server = make_server(config, (gate,))
        self._add_services(server)
        if config.fronts > 1:
            require_free(config.host, config.port)
        self.port = listen(server, config, self._credentials, config.port)
        self._telemetry.start()
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
        if config.fronts > 1:
            told = self._telemetry
            crew = self._crew = Crew(config, self._desk, self._using, told.sums, told.metrics.tenants)
            await crew.start(self.port, self._add_owned)

    async def wait_ready(self) -> None:
        """Returns once the engine is ready; raises what its start raised."""
        assert self._starting is not None, "the front was started"
        await asyncio.shield(self._starting)
        await self._health.refresh()

    async def drain(self, grace: float) -> None:
        """Tells watchers, lets nothing new in, and gives what runs `grace` seconds to end."""
        await self._health.close()
        if self._crew is not None:
            self._crew.drain()
        for admission in (self._generating, self._uploading):
            admission.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._generating.wait_idle()
                await self._uploading.wait_idle()

    async def stop(self) -> None:
        """Ends whatever is left, also after a start that failed."""
        await self._health.close()
        if self._crew is not None:
            await self._crew.stop()
        if self._server is not None:
            await self._server.stop(STOP_SECONDS)
        if self._starting is not None:
            await self._stop_link(self._starting)
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        await asyncio.to_thread(self._close_store)
        await asyncio.to_thread(self._telemetry.close)

    async def _stop_link(self, starting: asyncio.Task[None]) -> None:
        starting.cancel()
        await asyncio.wait([starting])
        # A link that never came up ended itself.
        if not starting.cancelled() and starting.exception() is None:
            await self._link.stop()

    def _close_store(self) -> None:
        self._texts.close()
        self._uploads.close()
        self._directory.close()
        self._journal.close()

    def _add_services(self, server: grpc.aio.Server) -> None:
        add_InferenceServicer_to_server(self._inference, server)  # type: ignore[no-untyped-call]
        add_HealthServicer_to_server(self._health.servicer, server)
        self._add_owned(server)

    def _add_owned(self, server: grpc.aio.Server) -> None:
        """What only the front serves that owns the store."""
        add_AdaptersServicer_to_server(self._adapters, server)  # type: ignore[no-untyped-call]
        add_GrantsServicer_to_server(GrantService(self._directory), server)  # type: ignore[no-untyped-call]


def _open_directory(config: ServerConfig, link: EngineLink) -> Directory:
    store = open_store(
        config.adapter_store,
        config.adapter_cache,
        config.adapter_cache_bytes,
        config.s3_endpoint,
        Quota(config.max_adapters, config.max_adapter_store_bytes, config.max_pinned_adapters),
        UploadLimits(config.upload_hours * 3600, config.upload_bytes),
    )
    return Directory(store, Grants(config.adapter_folder / "grants.json"), link.news)


def run(config: ServerConfig, link_factory: LinkFactory = EngineProcess) -> None:
    """Serves until SIGTERM or SIGINT; raises what kept the server from starting."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(Front(config, link_factory), config.drain_seconds))


async def _serve(front: Front, grace: float) -> None:
    try:
        await front.start()
        told = asyncio.create_task(told_to_end())
        ready = asyncio.create_task(front.wait_ready())
        await asyncio.wait((told, ready), return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            await ready
            settle()
            log.info("ready")
        await told
        await front.drain(grace)
    finally:
        await front.stop()
