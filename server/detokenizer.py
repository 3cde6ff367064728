"""Tokens to text, piece by piece: nothing that a later token could still change or take back."""

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

# A character has at most four bytes, so this many tokens without a whole one are noise. Waiting longer
# would decode all of them again at every token.
MAX_PENDING = 64


class Detokenizer:
    """The text of one sample.

        tokens -> DecodeStream (waits for whole characters) -> held -> text
                                held: the longest end that could begin a stop string

    The stop string that is complete first wins; of two complete at once, the longer one.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        special: frozenset[int],
        stops: Sequence[str] = (),
        context: Sequence[int] = (),
    ) -> None:
        """`context`: the last tokens of the prompt, if the answer's text continues the prompt's."""
        self.stopped: str | None = None
        # Tokens taken in, the one that completed the stop string included.
        self.num_tokens = 0
        self._tokenizer = tokenizer
        self._special = special
        self._stops = tuple(stops)
        self._held = ""
        # The tokens of the newest whole piece of text, and those since, whose text is not whole yet.
        self._whole = self._usable(context)
        self._pending: list[int] = []
        self._stream = DecodeStream(ids=self._whole, skip_special_tokens=False)

    def push(self, token_ids: Sequence[int]) -> str:
        """Takes tokens up to the one that completes a stop string; gives out the text that is certain."""
        parts = []
        for token_id in token_ids:
            if self.stopped is not None:
                break
            self.num_tokens += 1
            if token_id not in self._special and (text := self._decode(token_id)):
                parts.append(self._release(text) if self._stops else text)
        return "".join(parts)

    def finish(self) -> str:
        """The rest: U+FFFD for a character that was never completed, and what was held."""
        if self.stopped is not None:
            return ""
        text = self._release(self._flush())
        if self.stopped is None:
            text, self._held = text + self._held, ""
        return text

    def _decode(self, token_id: int) -> str:
        self._pending.append(token_id)
        try:
            text: str | None = self._stream.step(self._tokenizer, token_id)
        except Exception:  # noqa: BLE001
            # The stream, which has no error of its own, gives up where a byte makes a decoder read the
            # bytes before it anew. Their text is out; the rest follows as it stands.
            return self._restart()
        if text is not None:
            self._whole, self._pending = self._pending, []
            return text
        return "" if len(self._pending) < MAX_PENDING else self._restart()

    def _restart(self) -> str:
        text = self._flush()
        self._stream = DecodeStream(ids=self._whole, skip_special_tokens=False)
        return text

    def _flush(self) -> str:
        """The pending tokens' text as it stands."""
        if not self._pending:
            return ""
        before: str = self._tokenizer.decode(self._whole, skip_special_tokens=False)
        both: str = self._tokenizer.decode([*self._whole, *self._pending], skip_special_tokens=False)
        alone: str = self._tokenizer.decode(self._pending, skip_special_tokens=False)
        self._pending = []
        return both[len(before) :] if both.startswith(before) else alone

    def _release(self, text: str) -> str:
        held = self._held + text
        found = [(at + len(stop), -len(stop), stop) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            end, _, self.stopped = min(found)
            self._held = ""
            return held[: end - len(self.stopped)]
        keep = self._possible_start(held)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def _possible_start(self, held: str) -> int:
        """How long the longest end of `held` is that begins a stop string without completing it."""
        for length in range(min(len(held), max(map(len, self._stops), default=0)), 0, -1):
            if any(stop.startswith(held[-length:]) for stop in self._stops):
                return length
        return 0

    def _usable(self, context: Sequence[int]) -> list[int]:
        """A context that ends inside a character would give the prompt's text out again."""
        ids = [token_id for token_id in context if token_id not in self._special]
        whole = not self._tokenizer.decode(ids, skip_special_tokens=False).endswith("\ufffd")
        return ids if whole else []
