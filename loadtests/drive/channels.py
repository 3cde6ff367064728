"""Enough channels that no call waits for a stream: servers allow a connection only so many at once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from lorikeet.v1.inference_pb2_grpc import InferenceStub

# Fewer than any server allows: 100 is what HTTP/2 advises as the least, and this server takes 256.
STREAMS_PER_CHANNEL = 80
# The next channel connects while the last one fills.
SPARE_AT = STREAMS_PER_CHANNEL // 2

_OPTIONS = [
    # Channels with the same options would share one connection otherwise.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 64 << 20),
]


@dataclass
class _Lane:
    channel: grpc.aio.Channel
    stub: Any
    live: int = 0


class Channels:
    """Calls go to the first channel that has room."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        self._address = address
        self._credentials = credentials
        self._lanes: list[_Lane] = []
        self._open()

    @property
    def first(self) -> grpc.aio.Channel:
        return self._lanes[0].channel

    @contextmanager
    def stub(self) -> Iterator[Any]:
        """An InferenceStub for one call."""
        lane = self._choose()
        lane.live += 1
        try:
            yield lane.stub
        finally:
            lane.live -= 1

    async def close(self) -> None:
        for lane in self._lanes:
            await lane.channel.close(None)

    def _choose(self) -> _Lane:
        if self._lanes[-1].live >= SPARE_AT:
            self._open()
        return next(lane for lane in self._lanes if lane.live < STREAMS_PER_CHANNEL)

    def _open(self) -> None:
        options: Sequence[Any] = _OPTIONS
        if self._credentials is None:
            channel = grpc.aio.insecure_channel(self._address, options=options)
        else:
            channel = grpc.aio.secure_channel(self._address, self._credentials, options=options)
        channel.get_state(try_to_connect=True)
        self._lanes.append(_Lane(channel, InferenceStub(channel)))  # type: ignore[no-untyped-call]
