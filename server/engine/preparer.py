"""Uploaded adapters are made ready on a thread of their own, one after another, beside the running steps."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from adapters.errors import InvalidAdapter
from adapters.manifest import Manifest
from server.engine.messages import Prepare, Prepared

log = logging.getLogger(__name__)


class Preparer:
    """prepare(folder, manifest) -> the manifest as it then is; everything else on the engine's thread.

    notify: called on a thread of its own when an upload is done with.
    """

    def __init__(
        self, prepare: Callable[[Path, Manifest], Manifest], notify: Callable[[], None] = lambda: None
    ) -> None:
        self._prepare = prepare
        self._notify = notify
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="preparer")
        self._under_way: list[Future[Prepared]] = []

    @property
    def is_idle(self) -> bool:
        return not self._under_way

    def begin(self, command: Prepare) -> None:
        future = self._thread.submit(self._run, command)
        future.add_done_callback(lambda _: self._notify())
        self._under_way.append(future)

    def take(self) -> list[Prepared]:
        """What is done since the last call."""
        done = [future for future in self._under_way if future.done()]
        self._under_way = [future for future in self._under_way if future not in done]
        return [future.result() for future in done]

    def close(self) -> None:
        """What has not begun never will."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _run(self, command: Prepare) -> Prepared:
        try:
            manifest = self._prepare(Path(command.folder), Manifest.from_json(command.manifest))
            return Prepared(command.id, manifest.to_json())
        except InvalidAdapter as error:
            return Prepared(command.id, problems=tuple(error.problems))
        except Exception as error:
            # What the system says of its paths is for the log.
            log.exception("an upload cannot be prepared")
            return Prepared(command.id, failure=f"it could not be prepared ({type(error).__name__})")
