"""A server that speaks the public contract."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from loadtests.drive.channels import Channels
from loadtests.drive.records import OK, Record
from loadtests.drive.target import Clock, Served
from loadtests.workload.events import Request
from lorikeet.upload import UploadStream, read_folder
from lorikeet.v1 import adapters_pb2, inference_pb2
from lorikeet.v1.adapters_pb2_grpc import AdaptersStub


@dataclass(frozen=True)
class GrpcTarget:
    """keys: tenant -> its key, sent as `authorization: Bearer`. ca: PEM of the authority; makes it TLS."""

    address: str
    timeout: float | None = None
    ready_seconds: float = 60.0
    keys: Mapping[str, str] = field(default_factory=dict)
    ca: bytes | None = None

    @property
    def title(self) -> str:
        return f"grpc://{self.address}"

    def connect(self) -> "GrpcConnection":
        return GrpcConnection(self)


class GrpcConnection:
    def __init__(self, target: GrpcTarget) -> None:
        self._target = target
        credentials = None if target.ca is None else grpc.ssl_channel_credentials(target.ca)
        self._channels = Channels(target.address, credentials)
        self._metadata = {
            tenant: (("authorization", f"Bearer {key}"),) for tenant, key in target.keys.items()
        }

    async def describe(self) -> Served:
        with self._channels.stub() as stub:
            model = await stub.GetModel(
                inference_pb2.GetModelRequest(),
                timeout=self._target.ready_seconds,
                wait_for_ready=True,
                metadata=next(iter(self._metadata.values()), ()),
            )
        return Served(model.name, model.vocab_size, model.max_context)

    async def ask(self, request: Request, prompt: list[int], record: Record, clock: Clock) -> None:
        message = inference_pb2.GenerateRequest(
            adapter_id=request.adapter,
            token_ids=inference_pb2.TokenIds(ids=prompt),
            # The seed tells a scripted server, and a server's log, which request this is.
            sampling=inference_pb2.Sampling(
                max_new_tokens=request.answer_tokens, ignore_eos=True, seed=request.index
            ),
            session_id=request.session or None,
        )
        metadata = self._metadata.get(request.tenant, ())
        with self._channels.stub() as stub:
            record.sent = clock()
            call = stub.Generate(message, timeout=self._target.timeout, metadata=metadata)
            try:
                await _read(call, record, clock)
                record.outcome = OK
            except grpc.aio.AioRpcError as error:
                record.outcome, record.reason = error.code().name.lower(), error.details() or ""
            finally:
                record.end = clock()

    async def upload(self, tenant: str, adapter: str, folder: Path) -> str:
        stub: Any = AdaptersStub(self._channels.first)  # type: ignore[no-untyped-call]
        stream = UploadStream(adapter, read_folder(folder), None)
        try:
            await stub.Upload(_sent(stream), metadata=self._metadata.get(tenant, ()))
        except grpc.aio.AioRpcError as error:
            return str(error.code().name.lower())
        if stream.error is not None:
            raise stream.error
        return OK

    async def close(self) -> None:
        await self._channels.close()


async def _read(call: Any, record: Record, clock: Clock) -> None:
    """The time of each message is taken before anything is done with it."""
    async for message in call:
        now = clock()
        if count := len(message.token_ids):
            record.times.append(now)
            record.counts.append(count)
        if message.HasField("started"):
            record.version = message.started.adapter_version
            record.digest = message.started.adapter_digest
        if message.HasField("finished"):
            record.load_seconds = message.finished.usage.load_seconds


async def _sent(stream: UploadStream) -> AsyncIterator[adapters_pb2.UploadRequest]:
    for message in stream:
        yield message
