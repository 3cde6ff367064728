"""A request for text and what one may ask for, free of any protocol."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

# Ids below this may be an adapter's own tokens.
MAX_ID = 2**30 - 1


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class GenerateParams:
    """Exactly one of prompt, chat and token_ids is set."""

    adapter_id: str = ""
    session_id: str = ""
    prompt: str | None = None
    chat: Sequence[Turn] | None = None
    token_ids: Sequence[int] | None = None

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    max_new_tokens: int = 256
    min_new_tokens: int = 0
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    logprobs: int | None = None
    ignore_eos: bool = False
    n: int = 1
    priority: int = 0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for."""

    vocab_size: int
    # Tokens of prompt and answer together: the model's context, or the whole KV cache if that is smaller.
    max_tokens: int
    # No vocabulary worth serving has longer tokens on average; bounds the tokenizer's work.
    bytes_per_token: int = 16
    max_turns: int = 1024
    max_samples: int = 8
    max_stops: int = 4
    max_stop_bytes: int = 256
    max_stop_tokens: int = 16
    max_logprobs: int = 20
    max_session_bytes: int = 256
    max_priority: int = 10

    def before_adapter(self) -> "Limits":
        """As far as a request can be checked while nobody knows which tokens its adapter has."""
        return replace(self, vocab_size=MAX_ID + 1)

    def of_adapter(self, num_virtual: int, top_token: int) -> "Limits":
        """With an adapter that puts virtual tokens before every prompt, or knows tokens beyond the base's."""
        return replace(
            self,
            vocab_size=max(self.vocab_size, top_token + 1),
            max_tokens=self.max_tokens - num_virtual,
        )

    @property
    def max_prompt_bytes(self) -> int:
        return self.bytes_per_token * self.max_tokens
