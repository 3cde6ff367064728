"""An adapter's own tokenizer at work on texts, in a process of its own."""

from functools import partial

from server.bounded import Bounded, TooMuch
from server.errors import InvalidRequest
from server.limited_child import Child

# Of processor time. A tokenizer of a real model takes a second for a MiB.
SECONDS = 1.0
SECONDS_PER_MIB = 8.0


class Encoder:
    """A process for each tokenizer, which takes long to load, from its first text on."""

    def __init__(self, tokenizer: str) -> None:
        """tokenizer: the text of its tokenizer.json."""
        start = partial(Child, "server.tokenizer_process", {"tokenizer": tokenizer})
        self._bounded = Bounded(start, "the adapter's tokenizer", "text")

    async def encode(self, tenant: str, text: str, special: bool) -> list[int]:
        """The ids of a text; special: with the tokens that belong around a prompt.

        Raises InvalidRequest; NotReady where others hold it up, or no process can be had.
        """
        seconds = SECONDS + SECONDS_PER_MIB * len(text) / 1024**2
        try:
            answer = await self._bounded.ask((tenant, ""), {"text": text, "special": special}, seconds)
        except TooMuch as error:
            raise _refusal(str(error)) from error
        if "error" in answer:
            raise _refusal(answer["error"])
        ids: list[int] = answer["ids"]
        return ids

    def leave(self) -> None:
        """The process ends after what it works on; nobody asks for more."""
        self._bounded.leave()

    def close(self) -> None:
        """As `leave`, and waits for it."""
        self._bounded.close()


def _refusal(why: str) -> InvalidRequest:
    return InvalidRequest.of("input", f"the adapter's tokenizer fails at it: {why}")
