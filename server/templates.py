"""Chat templates that adapters brought, rendered in a process of their own."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256

from server.bounded import PATIENCE_SECONDS, Bounded, TooMuch
from server.errors import InvalidRequest
from server.limited_child import Child
from server.requests import Turn

# Of processor time; a template of a real model takes a few milliseconds.
RENDER_SECONDS = 1.0

start_child = partial(Child, "server.template_process")


class Templates:
    """One process for all, since templates travel with what they render."""

    def __init__(self, start: Callable[[], Child] = start_child, patience: float = PATIENCE_SECONDS) -> None:
        self._bounded = Bounded(start, "chat templates", "conversation", patience)

    async def render(
        self, tenant: str, template: str, tokens: Mapping[str, str], messages: Sequence[Turn]
    ) -> str:
        """The conversation as text, up to where the assistant speaks next.

        Raises InvalidRequest; NotReady where others hold it up, or no process can be had.
        """
        who = tenant, sha256(template.encode("utf-8", "surrogatepass")).digest()
        turns = [{"role": turn.role, "content": turn.content} for turn in messages]
        task = {"template": template, "tokens": dict(tokens), "messages": turns}
        try:
            answer = await self._bounded.ask(who, task, RENDER_SECONDS)
        except TooMuch as error:
            raise _refusal(str(error)) from error
        if "error" in answer:
            raise _refusal(answer["error"])
        text: str = answer["text"]
        return text

    def close(self) -> None:
        """Waits for who is being rendered; once more changes nothing."""
        self._bounded.close()


def _refusal(why: str) -> InvalidRequest:
    return InvalidRequest.of("chat", f"the adapter's chat template refuses it: {why}")
