"""The Adapters service: uploads in, versions out."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from adapters.grants import split_reference
from adapters.manifest import FileSpec
from adapters.names import check_name, parse_reference
from adapters.store import AdapterVersion
from lorikeet.v1 import adapters_pb2 as pb
from lorikeet.v1.adapters_pb2_grpc import AdaptersServicer
from server.admission import Admission
from server.caller import current_caller
from server.directory import Directory, name_for
from server.errors import InvalidRequest, SlowSender, names_in
from server.link import EngineLink

MAX_CHUNK_BYTES = 1 << 20
DEFAULT_PAGE_SIZE = 100
# The store itself refuses a declaration of other files than its two; this only bounds the header.
MAX_FILES = 16
SENDER_PATIENCE = 60.0

Context: TypeAlias = Any


class AdapterService(AdaptersServicer):
    """Adapters of the caller's tenant."""

    def __init__(
        self, directory: Directory, link: EngineLink, uploads: Admission, patience: float = SENDER_PATIENCE
    ) -> None:
        self._directory = directory
        self._link = link
        self._uploads = uploads
        self._patience = patience

    async def Upload(self, requests: AsyncIterator[pb.UploadRequest], context: Context) -> pb.AdapterVersion:
        tenant = current_caller().tenant
        with self._uploads.admit():
            parts = _Parts(requests, self._patience)
            header = await parts.header()
            with names_in("header.name"):
                check_name(header.name)
            async with self._directory.staging(_specs(header)) as staging:
                async for chunk in parts.chunks():
                    await self._directory.write(staging, chunk.file, chunk.offset, chunk.data)
                version = await self._directory.commit(staging, tenant, header.name)
        return self._message(version)

    async def Get(self, request: pb.GetAdapterRequest, context: Context) -> pb.AdapterVersion:
        with names_in("adapter_id"):
            split_reference(request.adapter_id)
        version = await self._directory.resolve(current_caller().tenant, request.adapter_id)
        return self._message(version)

    async def List(self, request: pb.ListAdaptersRequest, context: Context) -> pb.ListAdaptersResponse:
        with names_in("page_token"):
            versions, next_token = await self._directory.list(
                current_caller().tenant, request.page_size or DEFAULT_PAGE_SIZE, request.page_token
            )
        return pb.ListAdaptersResponse(
            versions=[self._message(version) for version in versions], next_page_token=next_token
        )

    async def Delete(self, request: pb.DeleteAdapterRequest, context: Context) -> pb.DeleteAdapterResponse:
        _check_reference(request.adapter_id)
        versions = await self._directory.delete(current_caller().tenant, request.adapter_id)
        return pb.DeleteAdapterResponse(versions=[self._message(version) for version in versions])

    def _message(self, version: AdapterVersion) -> pb.AdapterVersion:
        manifest = version.manifest
        stats = self._link.stats
        return pb.AdapterVersion(
            name=name_for(current_caller().tenant, version),
            version=version.version,
            digest=version.digest,
            create_time=Timestamp(seconds=int(version.created_at)),
            size=manifest.num_bytes,
            rank=manifest.rank,
            num_parameters=manifest.num_parameters,
            base_model=manifest.base_model_name,
            targets=sorted({linear.rpartition(".")[2] for linear in manifest.targets}),
            resident=stats is not None and version.digest in stats.resident,
        )


class _Parts:
    """An upload's messages in the order that the contract asks for."""

    def __init__(self, requests: AsyncIterator[pb.UploadRequest], patience: float) -> None:
        self._requests = aiter(requests)
        self._patience = patience

    async def header(self) -> pb.UploadHeader:
        request = await self._next()
        if request is None or request.WhichOneof("part") != "header":
            raise InvalidRequest.of("header", "must be the first message.")
        if len(request.header.files) > MAX_FILES:
            raise InvalidRequest.of("header.files", f"holds more than {MAX_FILES} files.")
        return request.header

    async def chunks(self) -> AsyncIterator[pb.UploadChunk]:
        while (request := await self._next()) is not None:
            if request.WhichOneof("part") != "chunk":
                raise InvalidRequest.of("chunk", "must be every message after the first.")
            if len(request.chunk.data) > MAX_CHUNK_BYTES:
                raise InvalidRequest.of("chunk.data", f"is longer than {MAX_CHUNK_BYTES} bytes.")
            yield request.chunk

    async def _next(self) -> pb.UploadRequest | None:
        try:
            async with asyncio.timeout(self._patience):
                return await anext(self._requests, None)
        except TimeoutError as error:
            raise SlowSender(f"No part of the upload came for {self._patience:g} seconds.") from error


def _specs(header: pb.UploadHeader) -> list[FileSpec]:
    return [FileSpec(file.name, file.size, file.sha256.hex()) for file in header.files]


def _check_reference(adapter_id: str) -> None:
    with names_in("adapter_id"):
        parse_reference(adapter_id)
