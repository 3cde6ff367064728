"""Who went over a limit too often lately."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

# In any such time, nobody does it more often.
MAX_STRIKES = 3
SECONDS = 600.0
# The longest quiet are forgotten first; who is forgotten too early is tried again, and no worse.
MAX_KEPT = 4096


class Strikes:
    """Belongs to one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: OrderedDict[Hashable, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    def add(self, who: Hashable) -> None:
        self._times.setdefault(who, deque(maxlen=MAX_STRIKES)).append(self._clock())
        self._times.move_to_end(who)
        if len(self._times) > MAX_KEPT:
            self._times.popitem(last=False)

    def seconds_left(self, who: Hashable) -> float:
        """Until they may try again; 0 where they may now."""
        times = self._times.get(who)
        if times is None or len(times) < MAX_STRIKES:
            return 0.0
        return max(0.0, times[0] + SECONDS - self._clock())
