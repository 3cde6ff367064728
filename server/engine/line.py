"""One tenant's waiting sequences: by priority, then adapters in turn, then as they came."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import chain

from server.engine.sequence import Sequence

# So many others of its tenant may start before a sequence whose adapter is not on the device.
COLD_TURNS = 8


@dataclass
class _Waiting:
    """The sequences of one adapter and priority, and the turn at which the adapter was last served."""

    turn: int
    sequences: deque[Sequence] = field(default_factory=deque)


# When, which of equals, and who.
_Turn = tuple[int, int, list[Sequence]]


class Line:
    """Adapters take turns, so one of many requests and one of a single request start equally often."""

    def __init__(self) -> None:
        # How many sequences have started.
        self._turn = 0
        self._num_waiting = 0
        self._levels: dict[int, dict[str, _Waiting]] = {}

    def __len__(self) -> int:
        return self._num_waiting

    def __iter__(self) -> Iterator[Sequence]:
        """In no promised order."""
        for level in self._levels.values():
            for waiting in level.values():
                yield from waiting.sequences

    def push(self, sequence: Sequence) -> None:
        self._num_waiting += 1
        self._waiting(sequence).sequences.append(sequence)

    def push_front(self, sequence: Sequence) -> None:
        """For a sequence that ran and had to step back: the next of its priority."""
        self._num_waiting += 1
        waiting = self._waiting(sequence)
        waiting.sequences.appendleft(sequence)
        waiting.turn = min(each.turn for each in self._levels[sequence.request.priority].values()) - 1

    def remove(self, sequence: Sequence) -> None:
        """It left without a turn."""
        level = self._levels[sequence.request.priority]
        waiting = level[sequence.request.adapter]
        waiting.sequences.remove(sequence)
        self._num_waiting -= 1
        if not waiting.sequences:
            del level[sequence.request.adapter]
        if not level:
            del self._levels[sequence.request.priority]

    def take(self, sequence: Sequence) -> None:
        """It starts: the others' turn is next."""
        self._turn += 1
        self._waiting(sequence).turn = self._turn
        self.remove(sequence)

    def in_turn(self, is_resident: Callable[[str], bool]) -> Iterator[Sequence]:
        """All, as if each one given out started; the line may change meanwhile.

        A cold adapter waits as if it had been served COLD_TURNS later; so it is not passed over for ever.
        """

        def turns(level: dict[str, _Waiting]) -> list[_Turn]:
            return [
                (waiting.turn + (0 if is_resident(adapter) else COLD_TURNS), order, list(waiting.sequences))
                for order, (adapter, waiting) in enumerate(level.items())
            ]

        levels = [turns(self._levels[priority]) for priority in sorted(self._levels, reverse=True)]
        return chain.from_iterable(_rotate(level, self._turn) for level in levels)

    def _waiting(self, sequence: Sequence) -> _Waiting:
        level = self._levels.setdefault(sequence.request.priority, {})
        return level.setdefault(sequence.request.adapter, _Waiting(self._turn))


def _rotate(turns: list[_Turn], turn: int) -> Iterator[Sequence]:
    """The first of the lowest turn, which is then the highest."""
    heapify(turns)
    position = {order: 0 for _, order, _ in turns}
    while turns:
        at, order, sequences = heappop(turns)
        yield sequences[position[order]]
        position[order] += 1
        turn = max(turn, at) + 1
        if position[order] < len(sequences):
            heappush(turns, (turn, order, sequences))
