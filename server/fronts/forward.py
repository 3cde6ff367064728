"""RPCs that only the first front can serve, passed on to it byte by byte."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeAlias

import grpc
import msgspec
from google.protobuf.descriptor_pool import Default
from google.rpc import status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from server.caller import Caller, current_caller
from server.errors import Told
from server.identity.identity import Metadata, Peer
from server.trace import current_trace

CALLER_KEY = "x-lorikeet-caller-bin"
# What the first front takes and gives has bounds already.
CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

Context: TypeAlias = Any


class Vouched:
    """Who calls, by the word of a front that has seen the credentials. On a socket for fronts alone."""

    def caller(self, metadata: Metadata, peer: Peer) -> Caller:
        (told,) = (value for name, value in metadata if name == CALLER_KEY)
        return msgspec.json.decode(told, type=Caller)


class Forward(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Handlers for all methods of some services."""

    def __init__(self, channel: grpc.aio.Channel, services: Iterable[str]) -> None:
        self._channel = channel
        self._methods = {
            f"/{service}/{method.name}"
            for service in services
            for method in Default().FindServiceByName(service).methods
        }

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        if method not in self._methods:
            return None
        # All shapes are alike on the wire; the first front's own handler knows which it is.
        return grpc.stream_stream_rpc_method_handler(self._handler(method))

    def _handler(self, method: str) -> Callable[[AsyncIterator[bytes], Context], Any]:
        passing: Any = self._channel.stream_stream(method, None, None)

        async def forward(requests: AsyncIterator[bytes], context: Context) -> None:
            caller = replace(current_caller(), peer=context.peer())
            call = passing(
                timeout=context.time_remaining(),
                metadata=(*current_trace().metadata, (CALLER_KEY, msgspec.json.encode(caller))),
            )
            sending = asyncio.create_task(_send(requests, call))
            try:
                await _receive(call, context)
            except grpc.aio.AioRpcError as error:
                raise Told(_status(error)) from None
            finally:
                sending.cancel()
                call.cancel()

        return forward


async def _send(requests: AsyncIterator[bytes], call: Any) -> None:
    # An answer before the end of the requests ends the call: nobody wants the rest.
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        async for request in requests:
            await call.write(request)
        await call.done_writing()


async def _receive(call: Any, context: Context) -> None:
    """Raises AioRpcError."""
    headers = await call.initial_metadata()
    if headers:
        # An upload's id, which its sender needs before the end.
        await context.send_initial_metadata(headers)
    async for message in call:
        await context.write(message)


def _status(error: Any) -> bytes:
    status = rpc_status.from_call(error)
    if status is None:
        # Of gRPC itself.
        status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
    return bytes(status.SerializeToString())
