"""Which sequences nobody waits for any more."""

from collections.abc import Container, Iterator
from heapq import heapify, heappop, heappush

from server.engine.messages import Submit

MIN_PRUNED = 1024


class Deadlines:
    """The earliest one is known at no cost. `live`: ids of the sequences that have not ended."""

    def __init__(self, live: Container[int]) -> None:
        self._live = live
        self._heap: list[tuple[float, int]] = []
        self._prune_at = MIN_PRUNED

    def add(self, request: Submit) -> None:
        if request.deadline is None:
            return
        heappush(self._heap, (request.deadline, request.id))
        # Most sequences end long before their deadlines.
        if len(self._heap) >= self._prune_at:
            self._heap = [entry for entry in self._heap if entry[1] in self._live]
            heapify(self._heap)
            self._prune_at = max(MIN_PRUNED, 2 * len(self._heap))

    def passed(self, now: float) -> Iterator[int]:
        """Ids of live sequences whose deadline has passed, each once."""
        while self._heap and self._heap[0][0] <= now:
            _, sequence_id = heappop(self._heap)
            if sequence_id in self._live:
                yield sequence_id
