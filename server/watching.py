"""The states of a version, or of an upload that becomes one, as they change."""

from collections.abc import AsyncIterator

from adapters.names import check_upload_id
from adapters.store import AdapterVersion
from lorikeet.v1 import adapters_pb2 as pb
from server.adapter_wire import upload_message, version_message
from server.directory import Directory
from server.engine.messages import DEVICE, HOST
from server.holds import key_of
from server.link import EngineLink
from server.uploading import Uploading

STATES = {
    DEVICE: pb.ADAPTER_STATE_ON_DEVICE,
    HOST: pb.ADAPTER_STATE_ON_HOST,
    "": pb.ADAPTER_STATE_STORED,
}
LAST = (pb.ADAPTER_STATE_REJECTED, pb.ADAPTER_STATE_DELETED)


class Watching:
    """Belongs to the event loop's thread."""

    def __init__(self, directory: Directory, uploading: Uploading, link: EngineLink) -> None:
        self._directory = directory
        self._uploading = uploading
        self._link = link

    async def version(self, tenant: str, reference: str) -> AsyncIterator[pb.AdapterStatus]:
        """Its state now and whenever it changes, until it is deleted. Raises NoSuchAdapter."""
        async for status in self._of(await self._directory.resolve(tenant, reference), tenant):
            yield status

    async def upload(self, tenant: str, upload_id: str) -> AsyncIterator[pb.AdapterStatus]:
        """The upload's state, then its version's. Raises UploadNotFound if it is neither known nor here."""
        check_upload_id(upload_id)
        last = None
        async for _ in self._directory.news.looks((tenant, upload_id)):
            outcome = self._uploading.outcome(tenant, upload_id)
            if outcome is not None and outcome.version is not None:
                break
            if outcome is None:
                staging = await self._uploading.find(tenant, upload_id)
                message = upload_message(staging, self._uploading.expires_at(staging))
                status = pb.AdapterStatus(state=pb.ADAPTER_STATE_UPLOADING, upload=message)
            elif outcome.reasons:
                status = pb.AdapterStatus(state=pb.ADAPTER_STATE_REJECTED, reasons=outcome.reasons)
            else:
                status = pb.AdapterStatus(state=pb.ADAPTER_STATE_CHECKING)
            if status != last:
                yield status
            if status.state in LAST:
                return
            last = status
        assert outcome is not None and outcome.version is not None, "news has no end but the version"
        async for status in self._of(outcome.version, tenant):
            yield status

    async def _of(self, version: AdapterVersion, tenant: str) -> AsyncIterator[pb.AdapterStatus]:
        last = None
        async for _ in self._directory.news.looks(key_of(version), version.digest):
            status = self._status(version, tenant)
            if status != last:
                yield status
            if status.state in LAST:
                return
            last = status

    def _status(self, version: AdapterVersion, tenant: str) -> pb.AdapterStatus:
        running = self._directory.holds.running([version])
        return pb.AdapterStatus(
            state=self._state(version, tenant, running),
            version=version_message(version, tenant, self._link.places),
            running=running,
        )

    def _state(self, version: AdapterVersion, tenant: str, running: int) -> pb.AdapterState:
        if not self._directory.store.is_live(version):
            return pb.ADAPTER_STATE_DRAINING if running else pb.ADAPTER_STATE_DELETED
        return STATES[self._link.places.seen(tenant, version.digest, version.pinned)]
