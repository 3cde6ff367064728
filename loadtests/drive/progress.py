"""What a driver's process says while it drives."""

from dataclasses import dataclass, fields


@dataclass
class Progress:
    """Counts since the start; tokens of requests that ended; worst_late: seconds that one was sent late."""

    sent: int = 0
    ok: int = 0
    failed: int = 0
    tokens: int = 0
    first_seconds: float = 0.0
    firsts: int = 0
    worst_late: float = 0.0

    @property
    def in_flight(self) -> int:
        return self.sent - self.ok - self.failed

    @property
    def mean_first(self) -> float:
        """Mean seconds to the first token so far."""
        return self.first_seconds / self.firsts if self.firsts else 0.0

    def __add__(self, other: "Progress") -> "Progress":
        *counts, worst = (
            (getattr(self, field.name), getattr(other, field.name)) for field in fields(Progress)
        )
        return Progress(*map(sum, counts), max(worst))  # type: ignore[call-arg]
