"""A task that may be ended from outside, for a reason of its own."""

import asyncio
from typing import Any


class Revocable:
    """The current task's. Whoever catches its cancellation asks whether this was all there was to it."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "requests run in tasks"
        self._task: asyncio.Task[Any] = task
        self._revoked = False
        self._cancellations = task.cancelling()

    def revoke(self) -> None:
        """Cancels the task; once is enough."""
        if not self._revoked:
            self._revoked = True
            self._task.cancel()

    def is_only_reason(self) -> bool:
        """Whether the task was cancelled for nothing but this, and may go on."""
        return self._revoked and self._task.uncancel() <= self._cancellations
