"""What the front needs of an engine, wherever the engine runs."""

from collections.abc import AsyncIterator
from typing import Protocol

from server.engine.messages import Failure, Ready, Stats, Submit, Token
from server.errors import NotReady


class EngineLost(Exception):
    """The engine went away before the sequence ended."""


class EngineLink(Protocol):
    """A running engine as seen from the front's event loop."""

    @property
    def ready(self) -> Ready | None:
        """What the engine said of itself, or None while it loads or after it was lost."""

    @property
    def is_alive(self) -> bool:
        """Whether the engine was heard of lately; one that does not answer may come back or be replaced."""

    @property
    def stats(self) -> Stats | None:
        """The newest gauges."""

    def submit(self, request: Submit) -> AsyncIterator[list[Token] | Failure]:
        """Start a sequence. The first and the last token come at once, those between them in groups.

        The iterator ends after a token with a finish or after a Failure; closing it early aborts the
        sequence. Raises EngineLost if the engine goes away.
        """

    def new_id(self) -> int:
        """A sequence id that this link has not given before."""


def require_ready(link: EngineLink) -> Ready:
    """What the engine said of itself; raises NotReady before that, and while it is lost."""
    if link.ready is None:
        raise NotReady("The model is loading; try again in a moment.")
    return link.ready
