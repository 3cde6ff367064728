"""Which of the requests that an engine died with may be the one that killed it.

After two losses without a token in between, a request is a suspect. Suspects are submitted one at a time,
those with most losses first, and all others wait: one that gets a token is cleared and goes on, one that the
engine dies with again, while it had no other, is the culprit.
"""

from collections import deque
from collections.abc import Callable, Sequence

from server.stream import Stream

# Losses in a row without a token that make a suspect.
MAX_LOSSES = 2


class Trials:
    """The way of every request to the engine."""

    def __init__(self, submit: Callable[[Stream], None]) -> None:
        self.accused: Stream | None = None
        # Whether the engine may still be at work on a suspect whose reader left before it got a token.
        self._haunted = False
        self._submit = submit
        self._held: deque[Stream] = deque()

    def offer(self, stream: Stream, is_ready: bool) -> None:
        """Submits a request, at once if there is an engine and no other is on trial."""
        self._held.append(stream)
        if is_ready:
            self._go_on()

    def resume(self, streams: Sequence[Stream]) -> Stream | None:
        """Another engine is there: submits what the lost one had, all but the culprit, which is returned."""
        lost = [stream for stream in streams if stream not in self._held]
        # Beside others, cleared or gone, nobody is convicted; the suspect comes first now, and alone.
        culprit = self.accused if lost == [self.accused] and not self._haunted else None
        self.accused, self._haunted = None, False
        for stream in lost:
            stream.losses += 1
        left = (stream for stream in streams if stream is not culprit)
        self._held = deque(sorted(left, key=lambda stream: -stream.losses))
        self._go_on()
        return culprit

    def leave(self, stream: Stream) -> None:
        """Its reader left; the engine hears of that only if it is well."""
        was_accused = stream is self.accused
        self.settle(stream)
        self._haunted |= was_accused

    def settle(self, stream: Stream) -> None:
        """It got a token, or ended."""
        if stream is self.accused:
            self.accused, self._haunted = None, False
            self._go_on()
        elif self._held and stream in self._held:
            self._held.remove(stream)

    def _go_on(self) -> None:
        while self._held and self.accused is None:
            stream = self._held.popleft()
            if stream.losses >= MAX_LOSSES:
                self.accused = stream
            self._submit(stream)
