"""The Adapters service: versions looked up, watched, deleted, and brought to where they are used."""

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

from adapters.files import CARD_NAME, STORY_NAME
from adapters.grants import split_reference
from adapters.store import AdapterVersion
from lorikeet.v1 import adapters_pb2 as pb
from server.adapter_wire import check_reference, tier_of, version_message
from server.admission import Admission
from server.alias_service import AliasMethods
from server.caller import current_caller
from server.directory import Directory
from server.errors import InvalidRequest, names_in
from server.journal import Journal
from server.link import EngineLink
from server.tiers import Tiers
from server.upload_service import UploadMethods
from server.uploading import Uploading
from server.watching import Watching

DEFAULT_PAGE_SIZE = 100
MAX_WAIT_SECONDS = 3600.0

Context: TypeAlias = Any


class AdapterService(UploadMethods, AliasMethods):
    """Adapters of the caller's tenant."""

    def __init__(
        self,
        directory: Directory,
        uploading: Uploading,
        tiers: Tiers,
        link: EngineLink,
        admission: Admission,
        journal: Journal,
    ) -> None:
        self._directory = directory
        self._uploading = uploading
        self._tiers = tiers
        self._link = link
        self._admission = admission
        self._journal = journal
        self._watching = Watching(directory, uploading, link)

    async def Get(self, request: pb.GetAdapterRequest, context: Context) -> pb.AdapterVersion:
        return self._message(await self._see(request.adapter_id))

    async def GetCard(self, request: pb.GetAdapterRequest, context: Context) -> pb.AdapterCard:
        version = await self._see(request.adapter_id)
        readme = await self._directory.look(lambda: self._text(version, CARD_NAME))
        story = await self._directory.look(lambda: self._text(version, STORY_NAME))
        return pb.AdapterCard(version=self._message(version), readme=readme, training_json=story)

    async def List(self, request: pb.ListAdaptersRequest, context: Context) -> pb.ListAdaptersResponse:
        with names_in("page_token"):
            versions, next_token = await self._directory.list(
                current_caller().tenant, request.page_size or DEFAULT_PAGE_SIZE, request.page_token
            )
        return pb.ListAdaptersResponse(
            versions=[self._message(version) for version in versions], next_page_token=next_token
        )

    async def Watch(
        self, request: pb.WatchAdapterRequest, context: Context
    ) -> AsyncIterator[pb.AdapterStatus]:
        tenant = current_caller().tenant
        match request.WhichOneof("target"):
            case "adapter_id":
                check_reference(request.adapter_id)
                with names_in("adapter_id"):
                    async for status in self._watching.version(tenant, request.adapter_id):
                        yield status
            case "upload_id":
                with names_in("upload_id"):
                    async for status in self._watching.upload(tenant, request.upload_id):
                        yield status
            case _:
                raise InvalidRequest.of("target", "set exactly one of adapter_id and upload_id.")

    async def Delete(self, request: pb.DeleteAdapterRequest, context: Context) -> pb.DeleteAdapterResponse:
        check_reference(request.adapter_id)
        seconds = min(request.wait.ToNanoseconds() / 1e9, MAX_WAIT_SECONDS)
        async with self._journal.note("Delete", request.adapter_id, context) as line:
            with names_in("adapter_id"):
                versions = await self._directory.delete(
                    current_caller().tenant, request.adapter_id, request.force
                )
            line |= {"force": request.force, "digests": [version.digest for version in versions]}
        running = await self._directory.drain(versions, seconds)
        return pb.DeleteAdapterResponse(
            versions=[self._message(version) for version in versions], running=running
        )

    async def Warm(self, request: pb.WarmAdapterRequest, context: Context) -> pb.AdapterVersion:
        tier, version = tier_of(request.tier), await self._resolve(request.adapter_id)
        await self._tiers.warm(version, tier)
        return self._message(version)

    async def Pin(self, request: pb.PinAdapterRequest, context: Context) -> pb.AdapterVersion:
        tier, version = tier_of(request.tier), await self._resolve(request.adapter_id)
        async with self._journal.note("Pin", f"{version.name}@{version.version}", context) as line:
            line |= {"tier": tier, "digest": version.digest}
            await self._tiers.pin(version, tier)
        return self._message(await self._resolve(f"{version.name}@{version.version}"))

    async def Unpin(self, request: pb.UnpinAdapterRequest, context: Context) -> pb.AdapterVersion:
        version = await self._resolve(request.adapter_id)
        async with self._journal.note("Unpin", f"{version.name}@{version.version}", context) as line:
            line["digest"] = version.digest
            await self._tiers.unpin(version)
        return self._message(await self._resolve(f"{version.name}@{version.version}"))

    async def _see(self, adapter_id: str) -> AdapterVersion:
        """One of the tenant's own, or one that is shared with it."""
        with names_in("adapter_id"):
            split_reference(adapter_id)
            return await self._directory.resolve(current_caller().tenant, adapter_id)

    async def _resolve(self, adapter_id: str) -> AdapterVersion:
        check_reference(adapter_id)
        with names_in("adapter_id"):
            return await self._directory.resolve(current_caller().tenant, adapter_id)

    def _text(self, version: AdapterVersion, name: str) -> str:
        """One of its files, on a lookup thread; empty if it has none of that name."""
        found = self._directory.store.read_file(version.digest, name) or b""
        return found.decode(errors="replace")

    def _message(self, version: AdapterVersion) -> pb.AdapterVersion:
        return version_message(version, current_caller().tenant, self._link.places)
