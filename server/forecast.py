"""Whether a deadline can be kept, judged by what the tenant's own requests waited just now.

Only what is clearly impossible is refused: a request is taken for lost when it would have to get its first
token sooner than every one of the tenant's last requests of its priority, while others of the tenant wait.
Another tenant's waiting says nothing: the fair queue may well serve this one first.
"""

import time
from collections import deque
from collections.abc import Callable

from server.errors import DeadlineUnreachable

# Waits older than this say nothing about now, and so few say nothing at all.
FRESH_SECONDS = 10.0
MIN_WAITS = 8
MAX_WAITS = 64
# Above so many lines, those without a fresh wait are forgotten.
MAX_LINES = 1024

# A tenant and a priority.
Line = tuple[str, int]


class Forecast:
    """Belongs to the event loop's thread. Times are seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # When a wait ended, and how long it was.
        self._waits: dict[Line, deque[tuple[float, float]]] = {}

    def learn(self, tenant: str, priority: int, seconds: float) -> None:
        """A request got its first token `seconds` after it came."""
        line = (tenant, priority)
        if line not in self._waits and len(self._waits) >= MAX_LINES:
            self._waits = {each: waits for each, waits in self._waits.items() if self._fresh(each)}
        self._waits.setdefault(line, deque(maxlen=MAX_WAITS)).append((self._clock(), seconds))

    def soonest(self, tenant: str, priority: int, num_queued: int) -> float:
        """Seconds to the first token that a new request cannot beat; 0 where nothing is known."""
        fresh = self._fresh((tenant, priority))
        return min(fresh) if num_queued and len(fresh) >= MIN_WAITS else 0.0

    def require(self, tenant: str, priority: int, num_queued: int, left: float | None) -> None:
        """Raises DeadlineUnreachable for a call that has `left` seconds and needs more."""
        soonest = self.soonest(tenant, priority, num_queued)
        if left is not None and left < soonest:
            raise DeadlineUnreachable(
                f"The deadline is in {left:.2f} s, and the tenant's requests wait at least {soonest:.2f} s "
                "for their first token; give it longer, or try later."
            )

    def _fresh(self, line: Line) -> list[float]:
        since = self._clock() - FRESH_SECONDS
        return [seconds for at, seconds in self._waits.get(line, ()) if at >= since]
