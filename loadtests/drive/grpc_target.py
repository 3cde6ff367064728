"""A server that speaks the public contract."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from loadtests.drive.calls import CallError, request_headers, stream
from loadtests.drive.channels import Channels
from loadtests.drive.http2 import Header
from loadtests.drive.records import OK, Record
from loadtests.drive.target import Clock, Served
from loadtests.drive.tls import Tls
from loadtests.workload.events import Request
from lorikeet.upload import UploadStream, read_folder
from lorikeet.v1 import adapters_pb2, inference_pb2
from lorikeet.v1.adapters_pb2_grpc import AdaptersStub
from lorikeet.v1.inference_pb2_grpc import InferenceStub

GENERATE = "/lorikeet.v1.Inference/Generate"


@dataclass(frozen=True)
class GrpcTarget:
    """keys: tenant -> its key, sent as `authorization: Bearer`. tls: None sends plain bytes."""

    address: str
    timeout: float | None = None
    ready_seconds: float = 60.0
    keys: Mapping[str, str] = field(default_factory=dict)
    tls: Tls | None = None

    @property
    def title(self) -> str:
        return f"grpc://{self.address}"

    def connect(self) -> "GrpcConnection":
        return GrpcConnection(self)


class GrpcConnection:
    """Answers are read from connections of the driver's own, everything else by grpcio."""

    def __init__(self, target: GrpcTarget) -> None:
        self._target = target
        self._channel = _channel(target)
        self._channels = Channels(target.address, target.tls)
        self._metadata = {
            tenant: (("authorization", f"Bearer {key}"),) for tenant, key in target.keys.items()
        }

    async def describe(self) -> Served:
        stub: Any = InferenceStub(self._channel)  # type: ignore[no-untyped-call]
        model = await stub.GetModel(
            inference_pb2.GetModelRequest(),
            timeout=self._target.ready_seconds,
            wait_for_ready=True,
            metadata=next(iter(self._metadata.values()), ()),
        )
        await self._channels.connect()
        return Served(model.name, model.vocab_size, model.max_context)

    async def ask(self, request: Request, prompt: list[int], record: Record, clock: Clock) -> None:
        message, headers = _message(request, prompt), self._headers(request)
        record.sent = clock()
        try:
            async with asyncio.timeout(self._target.timeout), self._channels.channel() as channel:
                record.end = await stream(channel, headers, message, _hearing(record), clock)
            record.outcome = OK
        except CallError as error:
            record.outcome, record.reason = error.outcome, error.reason
        except TimeoutError:
            record.outcome, record.reason = "deadline_exceeded", f"no end within {self._target.timeout:g} s"
        finally:
            if math.isnan(record.end):
                record.end = clock()

    def _headers(self, request: Request) -> list[Header]:
        target = self._target
        scheme = "http" if target.tls is None else "https"
        metadata = self._metadata.get(request.tenant, ())
        return request_headers(scheme, target.address, GENERATE, metadata, target.timeout)

    async def upload(self, tenant: str, adapter: str, folder: Path) -> str:
        stub: Any = AdaptersStub(self._channel)  # type: ignore[no-untyped-call]
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
        await self._channel.close(None)


def _channel(target: GrpcTarget) -> grpc.aio.Channel:
    if target.tls is None:
        return grpc.aio.insecure_channel(target.address)
    return grpc.aio.secure_channel(target.address, target.tls.credentials())


def _message(request: Request, prompt: list[int]) -> bytes:
    return inference_pb2.GenerateRequest(
        adapter_id=request.adapter,
        token_ids=inference_pb2.TokenIds(ids=prompt),
        # The seed tells a scripted server, and a server's log, which request this is.
        sampling=inference_pb2.Sampling(
            max_new_tokens=request.answer_tokens, ignore_eos=True, seed=request.index
        ),
        session_id=request.session or None,
    ).SerializeToString()


def _hearing(record: Record) -> Callable[[float, bytes], None]:
    def heard(at: float, data: bytes) -> None:
        message = inference_pb2.GenerateResponse.FromString(data)
        if count := len(message.token_ids):
            record.times.append(at)
            record.counts.append(count)
        if message.HasField("started"):
            record.version = message.started.adapter_version
            record.digest = message.started.adapter_digest
        if message.HasField("finished"):
            record.load_seconds = message.finished.usage.load_seconds

    return heard


async def _sent(stream: UploadStream) -> AsyncIterator[adapters_pb2.UploadRequest]:
    for message in stream:
        yield message
