"""Whose turn it is: one line for each tenant, the tenant served least for its weight goes first.

Virtual token counters after Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024):
each tenant's counter grows with the tokens computed for it, divided by its weight; a tenant that comes back
from idleness is lifted to the least of the active counters, so nobody saves up credit. Counters belong to
tenants and not to adapters: who spreads over many adapters gets no more.
"""

from collections.abc import Callable, Iterator

from server.engine.line import Line
from server.engine.sequence import Sequence

# A tenant whose next adapter is on the device may be this many tokens ahead of one whose is not.
COLD_TOKENS = 256.0

# Above so many tenants, those that are idle and have no debt are forgotten.
MAX_IDLE = 4096

# Whether an adapter is on the device.
IsResident = Callable[[str], bool]


class FairQueue:
    def __init__(self, is_resident: IsResident = lambda adapter: True) -> None:
        self._is_resident = is_resident
        self._lines: dict[str, Line] = {}
        self._counters: dict[str, float] = {}
        # As the tenant's newest request says.
        self._weights: dict[str, float] = {}
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
        tenant = sequence.request.tenant
        self._lift(tenant)
        self._weights[tenant] = sequence.request.weight
        self._lines.setdefault(tenant, Line()).push(sequence)

    def push_front(self, sequence: Sequence) -> None:
        """For a sequence that was running and had to step back."""
        self.num_changes += 1
        self._lines.setdefault(sequence.request.tenant, Line()).push_front(sequence)

    def candidates(self) -> Iterator[Sequence]:
        """Waiting sequences in the order in which they deserve to run; take what fits, pass the others by.

        Counters may be charged while this is read: the next turn is decided after the last one.
        """
        heads = [_Head(tenant, line.in_turn(self._is_resident)) for tenant, line in self._lines.items()]
        while heads:
            head = min(heads, key=self._rank)
            yield head.sequence
            if not head.advance():
                heads.remove(head)

    def first(self) -> Sequence:
        """Whose turn it is; there is one."""
        return next(self.candidates())

    def borrower(self, places: int) -> str | None:
        """Who runs most over its share of the places, if that is a place or more."""
        shares = self._shares(places)
        over = {tenant: held - shares[tenant] for tenant, held in self._running.items()}
        tenant = max(over, key=over.__getitem__, default=None)
        return tenant if tenant is not None and over[tenant] >= 1 else None

    def is_owed(self, sequence: Sequence, borrower: str, places: int) -> bool:
        """Whether one more place leaves its tenant within its share, and the tenant has none or is behind.

        Behind by what the sequence may cost: who always ask would else send each other back at every turn.
        """
        tenant, held = sequence.request.tenant, self._running.get(sequence.request.tenant, 0)
        if held + 1 > self._shares(places)[tenant]:
            return False
        cost = sequence.num_prompt + sequence.request.sampling.max_new_tokens
        behind = self._counters[borrower] - self._counters[tenant]
        return not held or behind * self._weights[tenant] >= cost

    def _shares(self, places: int) -> dict[str, float]:
        """By weight among those who run or wait, and a place at least."""
        weights = {tenant: self._weights[tenant] for tenant in {*self._lines, *self._running}}
        total = sum(weights.values())
        return {tenant: max(1.0, places * weight / total) for tenant, weight in weights.items()}

    def remove(self, sequence: Sequence) -> None:
        """It leaves without having run."""
        self.num_changes += 1
        self._lines[sequence.request.tenant].remove(sequence)
        self._drop_empty(sequence.request.tenant)

    def take(self, sequence: Sequence) -> None:
        """It starts to run."""
        self.num_changes += 1
        tenant = sequence.request.tenant
        self._lines[tenant].take(sequence)
        self._drop_empty(tenant)
        self._running[tenant] = self._running.get(tenant, 0) + 1

    def leave(self, tenant: str) -> None:
        """One of the tenant's running sequences ended or stepped back."""
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]

    def served(self, tenant: str) -> float:
        """Tokens computed for it, for its weight."""
        return self._counters.get(tenant, 0.0)

    def charge(self, tenant: str, tokens: float) -> None:
        self._counters[tenant] = self._counters.get(tenant, 0.0) + tokens / self._weights[tenant]

    def _rank(self, head: "_Head") -> tuple[float, int]:
        is_warm = self._is_resident(head.sequence.request.adapter)
        counter = self._counters[head.tenant] + (0.0 if is_warm else COLD_TOKENS)
        # One that comes back is lifted to the least of the others, and goes before those who are served.
        return counter, self._running.get(head.tenant, 0)

    def _drop_empty(self, tenant: str) -> None:
        if not len(self._lines[tenant]):
            del self._lines[tenant]

    def _lift(self, tenant: str) -> None:
        if tenant in self._lines or tenant in self._running:
            return
        active = [self._counters[t] for t in {*self._lines, *self._running}]
        floor = min(active, default=0.0)
        if not active:
            self._counters.clear()
            self._weights.clear()
        if len(self._counters) >= MAX_IDLE:
            self._forget_below(floor)
        self._counters[tenant] = max(self._counters.get(tenant, 0.0), floor)

    def _forget_below(self, floor: float) -> None:
        """Of idle tenants, those who would be lifted anyway."""
        active = {*self._lines, *self._running}
        self._counters = {t: c for t, c in self._counters.items() if t in active or c > floor}
        self._weights = {t: w for t, w in self._weights.items() if t in self._counters}


class _Head:
    """A tenant's next candidate and those behind it."""

    def __init__(self, tenant: str, sequences: Iterator[Sequence]) -> None:
        self.tenant = tenant
        self._sequences = sequences
        self.sequence = next(sequences)

    def advance(self) -> bool:
        """Whether there is another one."""
        following = next(self._sequences, None)
        if following is None:
            return False
        self.sequence = following
        return True
