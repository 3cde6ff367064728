"""The client: one address, one channel, plain calls. asyncio users take the stubs in `lorikeet.v1`."""

import math
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from lorikeet.errors import DeadlineExceeded, Unavailable, from_rpc
from lorikeet.generation import Generation
from lorikeet.registry import Adapters
from lorikeet.sampling import Prompt, Sampling, build_chat, build_request
from lorikeet.types import Model
from lorikeet.v1 import inference_pb2
from lorikeet.v1.adapters_pb2_grpc import AdaptersStub
from lorikeet.v1.inference_pb2_grpc import InferenceStub

_CHANNEL_OPTIONS = [
    # A server that starts is found within a second or two; grpc's own pauses grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A machine that vanishes under a waiting call is noticed; without pings the wait has no end.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]
_READY_PAUSE = 0.5


class Client:
    """A connection to one server. Safe to share between threads; use it as a context manager or close it.

    `timeout` is the default for every call, in seconds; a call's own timeout overrides it, math.inf means
    none. `credentials` makes the channel TLS; `metadata` goes with every call.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        timeout: float | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.target = target
        self._timeout = timeout
        self._metadata = tuple(metadata)
        self._channel = _open_channel(target, credentials)
        self._inference: Any = InferenceStub(self._channel)  # type: ignore[no-untyped-call]
        self.adapters = Adapters(AdaptersStub(self._channel), self._call)  # type: ignore[no-untyped-call]

    def generate(
        self,
        prompt: Prompt,
        *,
        adapter: str = "",
        timeout: float | None = None,
        **sampling: Unpack[Sampling],
    ) -> Generation:
        """Starts a generation from text, chat turns or token ids; iterate the answer for text as it comes.

        `adapter` is `name`, `name@3`, or empty for the base. What `sampling` leaves unset is not sent, so
        the server's defaults hold.
        """
        request = build_request(prompt, adapter, sampling)
        call = self._inference.Generate(request, timeout=self._limit(timeout), metadata=self._metadata)
        return Generation(call, max(1, request.sampling.n))

    def model(self, *, timeout: float | None = None) -> Model:
        """The base model that the server holds, and the server's limits."""
        request = inference_pb2.GetModelRequest()
        return Model.from_proto(self._call(self._inference.GetModel, request, timeout))

    def tokenize(
        self, text: str | Sequence[Mapping[str, str]], *, adapter: str = "", timeout: float | None = None
    ) -> list[int]:
        """The token ids that `generate` would see for this text or chat and this adapter."""
        if isinstance(text, str):
            request = inference_pb2.TokenizeRequest(text=text, adapter_id=adapter)
        else:
            request = inference_pb2.TokenizeRequest(chat=build_chat(text), adapter_id=adapter)
        return list(self._call(self._inference.Tokenize, request, timeout).token_ids)

    def wait_ready(self, timeout: float = 60.0) -> Model:
        """Waits until the server is there and its model is loaded; raises DeadlineExceeded if it never is."""
        deadline = time.monotonic() + timeout
        request = inference_pb2.GetModelRequest()
        why = "nothing answers there"
        while (left := deadline - time.monotonic()) > 0:
            try:
                answer = self._call(self._inference.GetModel, request, left, wait_for_ready=True)
                return Model.from_proto(answer)
            except DeadlineExceeded:
                break
            except Unavailable as error:
                why = error.message
                time.sleep(min(left, _READY_PAUSE, error.retry_after or _READY_PAUSE))
        raise DeadlineExceeded(f"{self.target} was not ready within {timeout:g} s: {why}")

    def close(self) -> None:
        """Closes the channel; calls under way are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: Any, request: Any, timeout: float | None, **options: Any) -> Any:
        try:
            return method(request, timeout=self._limit(timeout), metadata=self._metadata, **options)
        except grpc.RpcError as error:
            raise from_rpc(error) from error

    def _limit(self, timeout: float | None) -> float | None:
        limit = self._timeout if timeout is None else timeout
        return None if limit == math.inf else limit


def _open_channel(target: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)
    return grpc.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)
