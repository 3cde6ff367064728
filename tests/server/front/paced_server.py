"""A server in a process of its own whose engine gives every request a token in each step, read or not.

Usage: paced_server.py BASE STORE PATIENCE, seconds that a reader may take nothing. A request for more than
NUM_TOKENS tokens gets them until it is cut.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from server import app
from server.config import ServerConfig
from server.engine.messages import Failure, Started, Submit, Token
from server.running import loop_factory
from server.stream import Stream
from tests.server.front.house import FakeLink

STEP_SECONDS, NUM_TOKENS = 0.1, 20


class PacedLink(FakeLink):
    """What a front has of an engine: tokens wait in streams of the front, and no step waits for them."""

    def __init__(self, config: ServerConfig) -> None:
        super().__init__()
        self._interval = config.stream_interval
        self._running: set[Stream] = set()

    async def start(self) -> None:
        await super().start()
        self._stepping = asyncio.create_task(self._step())

    async def stop(self) -> None:
        self._stepping.cancel()
        await super().stop()

    async def submit(self, request: Submit) -> AsyncIterator[list[Token] | Failure]:
        stream = Stream(request, self._interval)
        self._running.add(stream)
        try:
            while True:
                tokens = await stream.take()
                yield tokens
                if isinstance(tokens, Failure) or tokens[-1].finish:
                    return
        finally:
            self._running.discard(stream)

    async def _step(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += STEP_SECONDS
            await asyncio.sleep(due - loop.time())
            for stream in list(self._running):
                token = _next_token(stream)
                stream.put(token)
                if token.finish:
                    self._running.discard(stream)


def _next_token(stream: Stream) -> Token:
    request, number = stream.request, len(stream.answered) + 1
    is_last = number == request.sampling.max_new_tokens == NUM_TOKENS
    return Token(request.id, 40, "length" if is_last else "", Started(0, 0.0, 0.0) if number == 1 else None)


def main(base: str, store: str, patience: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = ServerConfig(base=base, adapter_store=Path(store), port=0, metrics_port=-1, queue_limit=2000)
    front = app.Front(config, PacedLink)
    front._inference._patience = float(patience)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(app._serve(front, config.drain_seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
