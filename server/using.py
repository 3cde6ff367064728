"""A link to the engine that notes whose adapters are in use, for what tenants may know of their places."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import cast

from server.engine.messages import Failure, Ready, Submit, Token
from server.link import EngineLink
from server.places import Use


class UsingLink:
    """An AnsweringLink for the sequences of every front."""

    def __init__(self, link: EngineLink) -> None:
        self._link = link

    @property
    def ready(self) -> Ready | None:
        return self._link.ready

    @property
    def is_alive(self) -> bool:
        return self._link.is_alive

    def new_id(self) -> int:
        return self._link.new_id()

    async def submit(self, request: Submit) -> AsyncIterator[list[Token] | Failure]:
        news = cast(AsyncGenerator[list[Token] | Failure, None], self._link.submit(request))
        has_begun = False
        with Use(self._link.places, request.tenant, request.adapter) as use:
            async with aclosing(news):
                async for item in news:
                    if not has_begun and not isinstance(item, Failure):
                        has_begun = True
                        started = item[0].started
                        use.begin(has_loaded=started is not None and started.load_seconds > 0)
                    yield item
