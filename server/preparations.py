"""Uploads that the engine makes ready: what was asked of it and has not been answered."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from adapters.errors import InvalidAdapter, StoreUnavailable
from adapters.manifest import Manifest
from server.engine.messages import Prepare, Prepared
from server.errors import NotReady


class Preparations:
    """Belongs to the event loop's thread. send: to the engine that runs now."""

    def __init__(self, send: Callable[[Prepare], None]) -> None:
        self._send = send
        self._waiting: dict[int, asyncio.Future[Prepared]] = {}

    async def ask(self, number: int, folder: Path, manifest: Manifest) -> Manifest:
        """The manifest as it is once the adapter is ready.

        Raises InvalidAdapter, StoreUnavailable, or NotReady if the engine goes away. Nothing is said again to
        the engine that follows a lost one: the upload is.
        """
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(Prepare(number, str(folder.resolve()), manifest.to_json()))
            done = await answer
        finally:
            del self._waiting[number]
        if done.problems:
            raise InvalidAdapter(done.problems)
        if done.failure:
            raise StoreUnavailable(f"The adapter was not stored: {done.failure}; try again.")
        return Manifest.from_json(done.manifest)

    def take(self, done: Prepared) -> None:
        """What the engine says of one."""
        waiting = self._waiting.get(done.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(done)

    def lose(self) -> None:
        """The engine is gone."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(
                    NotReady("The engine was lost while it prepared the adapter; try again.")
                )
