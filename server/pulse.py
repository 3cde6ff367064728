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
        self._owes_a_word = False

    def beat(self) -> None:
        """It said something."""
        self._heard_at = self._clock()
        self._owes_a_word = False

    def ask(self) -> None:
        """Somebody begins to wait. Silence before that is none; but those who gave up waiting still count."""
        if not self._owes_a_word:
            self.beat()
        self._owes_a_word = True

    @property
    def silence(self) -> float:
        """Seconds since then, or since it was asked."""
        return self._clock() - self._heard_at
