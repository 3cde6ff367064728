"""One sequence as the front sees it: what was asked, what came, what nobody has taken yet."""

import asyncio

import msgspec

from server.engine.messages import Failure, Submit, Token
from server.link import EngineLost


class Stream:
    def __init__(self, request: Submit) -> None:
        self.request = request
        self.answered: list[int] = []
        self.started = False
        self._waiting: list[Token] = []
        self._failure: Failure | EngineLost | None = None
        self._news = asyncio.Event()

    def put(self, token: Token) -> None:
        # A resubmitted sequence says its start again; the reader heard it before.
        if token.started is not None and self.started:
            token = msgspec.structs.replace(token, started=None)
        self.started = True
        self.answered.append(token.token)
        self._waiting.append(token)
        self._news.set()

    def fail(self, failure: Failure | EngineLost) -> None:
        self._failure = failure
        self._news.set()

    async def take(self) -> list[Token] | Failure:
        """All tokens since the last call, waiting for one; then the failure, if there is one."""
        await self._news.wait()
        if self._waiting:
            tokens, self._waiting = self._waiting, []
            if self._failure is None:
                self._news.clear()
            return tokens
        assert self._failure is not None, "a stream woke its reader with no news"
        if isinstance(self._failure, EngineLost):
            raise self._failure
        return self._failure

    def resubmission(self) -> Submit:
        """The same request with the tokens so far, which it will go on from."""
        tokens = self.request.tokens + self.answered
        num_answered = self.request.num_answered + len(self.answered)
        return msgspec.structs.replace(self.request, tokens=tokens, num_answered=num_answered)
