"""What the front needs of an engine, wherever the engine runs."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from adapters.manifest import Manifest
from server.engine.messages import Failure, Ready, Stats, Submit, Token
from server.errors import NotReady
from server.news import News
from server.places import Places


class EngineLost(Exception):
    """The engine went away before the sequence ended."""


class AnsweringLink(Protocol):
    """A running engine as far as answers need it, seen from a front's event loop."""

    @property
    def ready(self) -> Ready | None:
        """What the engine said of itself, or None while it loads or after it was lost."""

    @property
    def is_alive(self) -> bool:
        """Whether the engine was heard of lately; one that does not answer may come back or be replaced."""

    def submit(self, request: Submit) -> AsyncIterator[list[Token] | Failure]:
        """Start a sequence. The first and the last token come at once, those between them in groups.

        The iterator ends after a token with a finish or after a Failure; closing it early aborts the
        sequence. Raises EngineLost if the engine goes away.
        """

    def new_id(self) -> int:
        """A sequence id that this link has not given before."""


class EngineLink(AnsweringLink, Protocol):
    """All of it, as the front sees it that owns the engine."""

    @property
    def stats(self) -> Stats | None:
        """The newest gauges."""

    @property
    def places(self) -> Places:
        """Where its adapters are; of a new engine, nowhere."""

    @property
    def news(self) -> News:
        """Told whenever `ready` changed, or where an adapter is."""

    def warm(self, digest: str, tier: str) -> None:
        """Have an adapter brought to "host" or "device"; `places` tells when it is there."""

    def pin(self, digest: str, tier: str) -> None:
        """Have an adapter brought to a tier and kept there. A new engine is to be told anew."""

    def unpin(self, digest: str) -> None:
        """Let an adapter be put out again."""

    async def prepare(self, folder: Path, manifest: Manifest) -> Manifest:
        """Has an uploaded adapter made ready for the base as served; the manifest as it then is.

        Raises InvalidAdapter with every problem, NotReady where there is no engine or it went away.
        """


def require_ready(link: AnsweringLink) -> Ready:
    """What the engine said of itself; raises NotReady before that, and while it is lost."""
    if link.ready is None:
        raise NotReady("The model is loading; try again in a moment.")
    return link.ready
