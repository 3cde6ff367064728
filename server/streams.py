"""The streams under way, by the id of their request."""

from collections.abc import Callable, Iterable

from server.engine.messages import Failure, Token
from server.link import EngineLost
from server.stream import Stream
from server.trials import Trials


class Streams:
    def __init__(self, submit: Callable[[Stream], None]) -> None:
        """submit(stream): its request goes to the engine, with the tokens that it has."""
        self._streams: dict[int, Stream] = {}
        self._trials = Trials(submit)

    def __len__(self) -> int:
        return len(self._streams)

    def open(self, stream: Stream, is_ready: bool) -> None:
        """is_ready: whether there is an engine; else it waits for the next."""
        self._streams[stream.request.id] = stream
        self._trials.offer(stream, is_ready)

    def leave(self, stream: Stream) -> bool:
        """Whether it was still under way: its reader left before the end."""
        if self._streams.pop(stream.request.id, None) is None:
            return False
        self._trials.leave(stream)
        return True

    def put(self, tokens: Iterable[Token]) -> None:
        for token in tokens:
            stream = self._streams.get(token.id)
            if stream is not None:
                stream.put(token)
                if token.finish:
                    del self._streams[token.id]
                self._trials.settle(stream)

    def fail(self, failures: Iterable[Failure]) -> None:
        for failure in failures:
            stream = self._streams.pop(failure.id, None)
            if stream is not None:
                stream.fail(failure)
                self._trials.settle(stream)

    def resume(self) -> bool:
        """All go to the new engine; but one over which engines were lost again and again ends.

        Returns whether there was such a one.
        """
        culprit = self._trials.resume(list(self._streams.values()))
        if culprit is not None:
            # The others should not go down with it again.
            self._streams.pop(culprit.request.id, None)
            culprit.fail(EngineLost("the engine was lost over and over while it worked on this request"))
        return culprit is not None

    def lose(self, why: str) -> None:
        """All end with EngineLost."""
        for stream in self._streams.values():
            stream.fail(EngineLost(why))
        self._streams.clear()
