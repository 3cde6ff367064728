"""Whether the engine's loop still turns: it says something every second, idle or not."""

import time
from collections.abc import Callable

# Longer than any step of a healthy engine on a GPU; a health check must know of a dead one within 5 s.
SILENT_SECONDS = 3.0


class Pulse:
    """When the engine was last heard of."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard_at = clock()

    def beat(self) -> None:
        """It said something."""
        self._heard_at = self._clock()

    @property
    def silence(self) -> float:
        """Seconds since then."""
        return self._clock() - self._heard_at
