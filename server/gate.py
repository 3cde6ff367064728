"""The one way in: every call gets its caller, its deadline, its status, and a line in the books."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
from grpc_status import rpc_status

from adapters.errors import is_panic
from server.books import Books
from server.caller import set_caller
from server.errors import DeadlinePassed
from server.identity.access import NOBODY, Access
from server.incidents import status_of
from server.trace import Trace, set_trace

Context: TypeAlias = Any
Handler: TypeAlias = Any
Behavior: TypeAlias = Callable[[Any, Context], Awaitable[Any]]


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Wraps handlers of all four shapes."""

    def __init__(self, access: Access, books: Books | None = None) -> None:
        """books: None where another gate, which the call came through, keeps them."""
        self._access = access
        self._books = books

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return _rewrap(handler, lambda behavior: self._guard(handler_call_details.method, behavior))

    def _guard(self, method: str, behavior: Behavior) -> Behavior:
        async def guarded(request: Any, context: Context) -> Any:
            call = _Call(method, self._books, context)
            set_trace(call.trace)
            try:
                # Known first, so that the log also names who was refused.
                call.caller = self._access.identify(method, context)
                self._access.authorize(method, call.caller)
                set_caller(call.caller)
                async with _deadline(context):
                    answer = await behavior(request, context)
            except grpc.aio.InternalError as error:
                # What grpc raises from a write whose reader has just left.
                call.done(grpc.StatusCode.CANCELLED)
                raise asyncio.CancelledError from error
            except Exception as error:  # noqa: BLE001
                return await call.fail(error, context)
            except asyncio.CancelledError:
                call.done(grpc.StatusCode.CANCELLED)
                raise
            except BaseException as error:
                if not is_panic(error):
                    raise
                return await call.fail(RuntimeError(str(error)), context)
            call.done(context.code() or grpc.StatusCode.OK)
            return answer

        return guarded


class _Call:
    """What is known of one call until it is done."""

    def __init__(self, method: str, books: Books | None, context: Context) -> None:
        self._method = method
        self._books = books
        self._began = time.monotonic()
        self.trace = Trace.of(context.invocation_metadata() or ())
        self.caller = NOBODY
        context.set_trailing_metadata(self.trace.metadata)

    async def fail(self, error: Exception, context: Context) -> None:
        """Ends the call with the error's status."""
        if isinstance(error, grpc.aio.AbortError):
            # Somebody else's service chose its own status.
            self.done(context.code())
            raise error
        told = rpc_status.to_status(status_of(error, self._method))
        self.done(told.code)
        try:
            await context.abort(told.code, told.details, (*told.trailing_metadata, *self.trace.metadata))
        except grpc.aio.InternalError as gone:
            # Nobody is left to hear it.
            raise asyncio.CancelledError from gone

    def done(self, code: grpc.StatusCode) -> None:
        if self._books is not None:
            self._books.note(self._method, code, self._began, self.caller, self.trace)


@asynccontextmanager
async def _deadline(context: Context) -> AsyncIterator[None]:
    """Cancels the block once the call's deadline has passed and says so."""
    timeout = asyncio.timeout(context.time_remaining())
    try:
        async with timeout:
            yield
    except TimeoutError as error:
        if timeout.expired():
            raise DeadlinePassed("The call's deadline passed.") from error
        raise


def _rewrap(handler: Handler, guard: Callable[[Behavior], Behavior]) -> Handler:
    """A handler of the same shape around the guarded behavior."""
    codecs = (handler.request_deserializer, handler.response_serializer)
    if handler.response_streaming:
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(guard(_writing(handler.stream_stream)), *codecs)
        return grpc.unary_stream_rpc_method_handler(guard(_writing(handler.unary_stream)), *codecs)
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler(guard(handler.stream_unary), *codecs)
    return grpc.unary_unary_rpc_method_handler(guard(handler.unary_unary), *codecs)


def _writing(behavior: Callable[[Any, Context], Any]) -> Behavior:
    """Generators and coroutines that write both become coroutines that write."""

    async def write(request: Any, context: Context) -> None:
        answers: AsyncIterator[Any] | Awaitable[None] = behavior(request, context)
        if isinstance(answers, AsyncIterator):
            async for answer in answers:
                await context.write(answer)
        else:
            await answers

    return write
