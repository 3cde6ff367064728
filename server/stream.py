"""One sequence as the front sees it: what was asked, what came, what nobody has taken yet."""

import asyncio

import msgspec

from server.engine.messages import Failure, Submit, Token
from server.link import EngineLost


class Stream:
    """Wakes its reader at once for the first and the last token, and in between once per interval.

    A wake-up costs more than a token; what comes meanwhile waits here and goes out together.
    """

    def __init__(self, request: Submit, interval: float) -> None:
        self.request = request
        self.answered: list[int] = []
        # Engines that died in a row while this sequence was theirs, without one token of it in between.
        self.losses = 0
        # Nothing is left to take.
        self.is_over = False
        self._interval = interval
        self._waiting: list[Token] = []
        self._failure: Failure | EngineLost | None = None
        self._news = asyncio.Event()
        self._taken_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def put(self, token: Token) -> None:
        # A resubmitted sequence says its start again; the reader heard it before.
        if token.started is not None and self.answered:
            token = msgspec.structs.replace(token, started=None)
        self.answered.append(token.token)
        self.losses = 0
        self._waiting.append(token)
        if token.finish or len(self.answered) == 1:
            self._wake()
        elif self._timer is None and not self._news.is_set():
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._taken_at + self._interval, self._wake)

    def fail(self, failure: Failure | EngineLost) -> None:
        """What was put before is still read first."""
        self._failure = failure
        self._wake()

    async def take(self) -> list[Token] | Failure:
        """All tokens since the last call; then the failure, if there is one."""
        await self._news.wait()
        if self._waiting:
            tokens, self._waiting = self._waiting, []
            self.is_over = bool(tokens[-1].finish)
            self._taken_at = asyncio.get_running_loop().time()
            self._stop_timer()
            if self._failure is None:
                self._news.clear()
            return tokens
        self.is_over = True
        assert self._failure is not None, "a stream woke its reader with no news"
        if isinstance(self._failure, EngineLost):
            raise self._failure
        return self._failure

    def resubmission(self) -> Submit:
        """The same request with the tokens so far, which it will go on from."""
        tokens = self.request.tokens + self.answered
        num_answered = self.request.num_answered + len(self.answered)
        return msgspec.structs.replace(self.request, tokens=tokens, num_answered=num_answered)

    def _wake(self) -> None:
        self._stop_timer()
        self._news.set()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
