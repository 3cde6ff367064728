"""Whose turn it is: one line for each tenant, the tenant served least goes first.

Virtual token counters after Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024):
each tenant's counter grows with the tokens computed for it; a tenant that comes back from idleness is
lifted to the least of the active counters, so nobody saves up credit.
"""

from collections import deque
from collections.abc import Iterator

from server.engine.sequence import Sequence


class FairQueue:
    def __init__(self) -> None:
        self._lines: dict[str, deque[Sequence]] = {}
        self._counters: dict[str, float] = {}
        self._running: dict[str, int] = {}
        # Sequences that came or went.
        self.num_changes = 0

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def __iter__(self) -> Iterator[Sequence]:
        """Every waiting sequence, in no promised order."""
        for line in self._lines.values():
            yield from line

    def push(self, sequence: Sequence) -> None:
        self.num_changes += 1
        self._lift(sequence.request.tenant)
        self._lines.setdefault(sequence.request.tenant, deque()).append(sequence)

    def push_front(self, sequence: Sequence) -> None:
        """For a sequence that was running and had to step back."""
        self.num_changes += 1
        self._lines.setdefault(sequence.request.tenant, deque()).appendleft(sequence)

    def candidates(self) -> Iterator[Sequence]:
        """Waiting sequences in the order in which they deserve to run; take what fits, pass the others by.

        Counters may be charged while this is read: the next turn is decided after the last one.
        """
        lines = {tenant: iter(list(line)) for tenant, line in self._lines.items()}
        while lines:
            tenant = min(lines, key=lambda t: self._counters[t])
            sequence = next(lines[tenant], None)
            if sequence is None:
                del lines[tenant]
            else:
                yield sequence

    def remove(self, sequence: Sequence) -> None:
        self.num_changes += 1
        tenant = sequence.request.tenant
        self._lines[tenant].remove(sequence)
        if not self._lines[tenant]:
            del self._lines[tenant]

    def enter(self, tenant: str) -> None:
        """One of the tenant's sequences starts to run."""
        self._running[tenant] = self._running.get(tenant, 0) + 1

    def leave(self, tenant: str) -> None:
        """One of the tenant's running sequences ended or stepped back."""
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]

    def charge(self, tenant: str, tokens: float) -> None:
        self._counters[tenant] = self._counters.get(tenant, 0.0) + tokens

    def _lift(self, tenant: str) -> None:
        if tenant in self._lines or tenant in self._running:
            return
        active = [self._counters[t] for t in {*self._lines, *self._running}]
        floor = min(active, default=0.0)
        if not active:
            self._counters.clear()
        self._counters[tenant] = max(self._counters.get(tenant, 0.0), floor)
