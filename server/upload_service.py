"""The Adapters service's methods on uploads."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

from adapters.manifest import FileSpec
from adapters.names import check_name, check_upload_id
from lorikeet.v1 import adapters_pb2 as pb
from lorikeet.v1.adapters_pb2_grpc import AdaptersServicer
from server.adapter_wire import upload_message, version_message
from server.admission import Admission
from server.caller import current_caller
from server.errors import InvalidRequest, SlowSender, names_in
from server.journal import Journal
from server.link import EngineLink
from server.uploading import Chunk, Uploading, declare

MAX_CHUNK_BYTES = 1 << 20
# Which files are taken is for the store to say; this only bounds the header.
MAX_FILES = 16
SENDER_PATIENCE = 60.0
ID_KEY = "x-lorikeet-upload-id"

Context: TypeAlias = Any


class UploadMethods(AdaptersServicer):
    """Uploads of the caller's tenant."""

    _uploading: Uploading
    _admission: Admission
    _journal: Journal
    _link: EngineLink
    _patience = SENDER_PATIENCE

    async def Upload(self, requests: AsyncIterator[pb.UploadRequest], context: Context) -> pb.AdapterVersion:
        tenant = current_caller().tenant
        with self._admission.admit():
            parts = _Parts(requests, self._patience)
            header = await parts.header()
            allows = header.allow_base_mismatch
            declaration = declare(tenant, header.name, _upload_id(header), _specs(header), allows)

            async def begun() -> None:
                await context.send_initial_metadata(((ID_KEY, declaration.upload_id),))

            async with self._journal.note("Upload", header.name, context) as line:
                line |= {"digest": declaration.digest, "bytes": declaration.size}
                version = await self._uploading.receive(declaration, begun, parts.chunks)
                line["name"] = f"{version.name}@{version.version}"
        return version_message(version, current_caller().tenant, self._link.places)

    async def QueryUpload(self, request: pb.QueryUploadRequest, context: Context) -> pb.UploadStatus:
        with names_in("upload_id"):
            check_upload_id(request.upload_id)
        staging = await self._uploading.find(current_caller().tenant, request.upload_id)
        return upload_message(staging, self._uploading.expires_at(staging))


class _Parts:
    """An upload's messages in the order that the contract asks for."""

    def __init__(self, requests: AsyncIterator[pb.UploadRequest], patience: float) -> None:
        self._requests = aiter(requests)
        self._patience = patience

    async def header(self) -> pb.UploadHeader:
        request = await self._next()
        if request is None or request.WhichOneof("part") != "header":
            raise InvalidRequest.of("header", "must be the first message.")
        header = request.header
        if len(header.files) > MAX_FILES:
            raise InvalidRequest.of("header.files", f"holds more than {MAX_FILES} files.")
        with names_in("header.name"):
            check_name(header.name)
        if header.upload_id:
            with names_in("header.upload_id"):
                check_upload_id(header.upload_id)
        return header

    async def chunks(self) -> AsyncIterator[Chunk]:
        while (request := await self._next()) is not None:
            if request.WhichOneof("part") != "chunk":
                raise InvalidRequest.of("chunk", "must be every message after the first.")
            chunk = request.chunk
            if len(chunk.data) > MAX_CHUNK_BYTES:
                raise InvalidRequest.of("chunk.data", f"is longer than {MAX_CHUNK_BYTES} bytes.")
            yield Chunk(chunk.file, chunk.offset, chunk.data)

    async def _next(self) -> pb.UploadRequest | None:
        try:
            async with asyncio.timeout(self._patience):
                return await anext(self._requests, None)
        except TimeoutError as error:
            raise SlowSender(f"No part of the upload came for {self._patience:g} seconds.") from error


def _upload_id(header: pb.UploadHeader) -> str:
    return header.upload_id or secrets.token_hex(16)


def _specs(header: pb.UploadHeader) -> list[FileSpec]:
    return [FileSpec(file.name, file.size, file.sha256.hex()) for file in header.files]
