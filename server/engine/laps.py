"""Where a turn of the loop that took too long spent its time, for the log."""

import logging
import time

log = logging.getLogger(__name__)

# Readers of streams notice a gap of this length, where steps take some ms.
SLOW_SECONDS = 0.25


class Laps:
    """`start`, then `lap` after each part of the turn, then `end`.

    limit: seconds from which on a turn is slow.
    """

    def __init__(self, limit: float = SLOW_SECONDS) -> None:
        self._limit = limit
        self._laps: list[tuple[str, float]] = []
        self._begun = self._last = time.monotonic()
        self._cpu = time.thread_time()

    def start(self) -> None:
        self._laps.clear()
        self._begun = self._last = time.monotonic()
        self._cpu = time.thread_time()

    def lap(self, part: str) -> None:
        """Since the lap before."""
        now = time.monotonic()
        self._laps.append((part, now - self._last))
        self._last = now

    def end(self, num_sequences: int, num_tokens: int) -> None:
        """One line where the turn was slow; off its core a thread waits for other threads or the device."""
        seconds = time.monotonic() - self._begun
        if seconds < self._limit:
            return
        parts = ", ".join(f"{part} {1000 * lap:.0f}" for part, lap in self._laps)
        cpu = time.thread_time() - self._cpu
        log.warning(
            "a turn over %d sequences and %d tokens took %.0f ms: %s; %.0f ms on a core",
            num_sequences,
            num_tokens,
            1000 * seconds,
            parts,
            1000 * cpu,
        )
