"""Whose turn it is: one line for each tenant, the tenant served least for its weight goes first.

Virtual token counters after Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024):
each tenant's counter grows with the tokens computed for it, divided by its weight; a tenant that comes back
from idleness is lifted to the least of the active counters, so nobody saves up credit. Counters belong to
tenants and not to adapters: who spreads over many adapters gets no more.
"""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush, heapreplace
from itertools import chain, islice

from server.engine.line import Line
from server.engine.sequence import Sequence
from server.engine.shares import Shares
from server.engine.turns import Turn, Turns

# A tenant whose next adapter is on the device may be this many tokens ahead of one whose is not,
COLD_TOKENS = 256.0
# and so many of those are passed over for it at a time.
MAX_PASSED = 32

# The order in which adapters will be needed is known for so many sequences.
AHEAD = 128

# Above so many idle tenants, those that have no debt are forgotten.
MAX_IDLE = 4096

# Whether an adapter is on the device.
IsResident = Callable[[str], bool]


class FairQueue:
    def __init__(self, is_resident: IsResident = lambda adapter: True) -> None:
        self._is_resident = is_resident
        self._lines: dict[str, Line] = {}
        self._num_waiting = 0
        self._counters: dict[str, float] = {}
        # Of those who run or wait; weights as the tenant's newest request says.
        self._shares = Shares()
        self._turns = Turns(self._standing)
        # Sequences that came or went.
        self.num_changes = 0

    def __len__(self) -> int:
        return self._num_waiting

    def __iter__(self) -> Iterator[Sequence]:
        """Every waiting sequence, in no promised order."""
        for line in self._lines.values():
            yield from line

    def push(self, sequence: Sequence) -> None:
        tenant = sequence.request.tenant
        self._lift(tenant)
        self._shares.enter(tenant, sequence.request.weight)
        self._line_of(tenant).push(sequence)

    def push_front(self, sequence: Sequence) -> None:
        """For a sequence that has to step back; its place is given back after this."""
        self._line_of(sequence.request.tenant).push_front(sequence)

    def candidates(self) -> Iterator[Sequence]:
        """Waiting sequences in the order in which they deserve to run; take what fits, pass the others by.

        Counters may be charged while this is read: the next turn is decided after the last one.
        """
        heads: list[tuple[Turn, _Head]] = []
        seen: set[str] = set()
        turn = self._turns.after()
        while True:
            for _ in range(MAX_PASSED):
                if turn is None or (heads and heads[0][0] < turn):
                    break
                if turn.tenant not in seen:
                    seen.add(turn.tenant)
                    head = _Head(turn, self._lines[turn.tenant].in_turn(self._is_resident))
                    heappush(heads, (self._rank(head), head))
                turn = self._turns.after(turn)
            if not heads:
                return
            head = heads[0][1]
            yield head.sequence
            if head.advance():
                heapreplace(heads, (self._rank(head), head))
            else:
                heappop(heads)

    def first(self) -> Sequence:
        """Whose turn it is; there is one."""
        return next(self.candidates())

    def adapters(self) -> Iterator[str]:
        """Of all, again and again: those whose turns are next, then the others."""
        for sequence in chain(islice(self.candidates(), AHEAD), self):
            yield sequence.request.adapter

    def borrower(self, places: int) -> str | None:
        """Who was served most of those who run over their shares of the places by a place or more."""
        return max(self._shares.borrowers(places), key=self._counters.__getitem__, default=None)

    def is_owed(self, sequence: Sequence, borrower: str) -> bool:
        """Whether the borrower owes it a place: its tenant has none, or was served less.

        Less by what the sequence may cost: who always ask would else send each other back at every turn. More
        than its share of the places it may have then, since a burst is not more than its share of the tokens.
        """
        tenant = sequence.request.tenant
        cost = sequence.num_prompt + sequence.request.sampling.max_new_tokens
        behind = self._counters[borrower] - self._counters[tenant]
        return not self._shares.held(tenant) or behind * self._shares.weight(tenant) >= cost

    def remove(self, sequence: Sequence) -> None:
        """It leaves without having run."""
        tenant = sequence.request.tenant
        self._lines[tenant].remove(sequence)
        self._shorten(tenant)
        self._forget_idle(tenant)

    def take(self, sequence: Sequence) -> None:
        """It starts to run."""
        tenant = sequence.request.tenant
        self._lines[tenant].take(sequence)
        self._shorten(tenant)
        self._shares.take(tenant)

    def leave(self, tenant: str) -> None:
        """One of the tenant's running sequences ended or stepped back."""
        self._shares.give_back(tenant)
        self._turns.renew(tenant)
        self._forget_idle(tenant)

    def served(self, tenant: str) -> float:
        """Tokens computed for it, for its weight."""
        return self._counters.get(tenant, 0.0)

    def charge(self, tenant: str, tokens: float) -> None:
        """For one that runs or waits."""
        self._counters[tenant] += tokens / self._shares.weight(tenant)

    def _standing(self, tenant: str) -> tuple[float, int]:
        # One that comes back is lifted to the least of the others, and goes before those who are served.
        return self._counters[tenant], self._shares.held(tenant)

    def _rank(self, head: "_Head") -> Turn:
        served, held = self._standing(head.turn.tenant)
        is_warm = self._is_resident(head.sequence.request.adapter)
        return head.turn._replace(served=served + (0.0 if is_warm else COLD_TOKENS), held=held)

    def _line_of(self, tenant: str) -> Line:
        """For one sequence more."""
        self.num_changes += 1
        self._num_waiting += 1
        if tenant not in self._lines:
            self._lines[tenant] = Line()
            self._turns.enter(tenant)
        return self._lines[tenant]

    def _shorten(self, tenant: str) -> None:
        """One sequence less."""
        self.num_changes += 1
        self._num_waiting -= 1
        if not self._lines[tenant]:
            del self._lines[tenant]
            self._turns.leave(tenant)

    def _lift(self, tenant: str) -> None:
        if tenant in self._shares:
            return
        first = self._turns.after()
        active = [self._counters[each] for each in self._shares.holders()]
        floor = min([*active, *([] if first is None else [first.served])], default=0.0)
        if not len(self._shares):
            self._counters.clear()
        if len(self._counters) - len(self._shares) >= MAX_IDLE:
            self._forget_below(floor)
        self._counters[tenant] = max(self._counters.get(tenant, 0.0), floor)

    def _forget_idle(self, tenant: str) -> None:
        """Its share is the others' if it neither runs nor waits; what it was served is kept."""
        if tenant not in self._lines and not self._shares.held(tenant):
            self._shares.leave(tenant)

    def _forget_below(self, floor: float) -> None:
        """Of idle tenants, those who would be lifted anyway."""
        self._counters = {t: c for t, c in self._counters.items() if t in self._shares or c > floor}


class _Head:
    """A tenant's next candidate and those behind it."""

    def __init__(self, turn: Turn, sequences: Iterator[Sequence]) -> None:
        """turn: when it was looked at."""
        self.turn = turn
        self._sequences = sequences
        self.sequence = next(sequences)

    def advance(self) -> bool:
        """Whether there is another one."""
        following = next(self._sequences, None)
        if following is None:
            return False
        self.sequence = following
        return True
