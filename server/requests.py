"""The one validator of generation requests, for every front end, whatever protocol it speaks."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from adapters.errors import InvalidName
from adapters.names import parse_reference
from server.errors import InvalidRequest, Violation

ROLES = ("system", "user", "assistant")
MAX_SEED = 2**64 - 1
# Ids below this may be an adapter's own tokens.
MAX_ID = 2**30 - 1


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class GenerateParams:
    """A request for text, free of any protocol. Exactly one of prompt, chat and token_ids is set."""

    adapter_id: str = ""
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


def check(params: GenerateParams, limits: Limits) -> None:
    """Raises InvalidRequest with every violation; what passes needs only `check_length` once tokenized."""
    violations = [
        *_check_adapter_id(params.adapter_id),
        *_check_input(params, limits),
        *_check_numbers(params, limits),
        *_check_lengths(params),
        *_check_stops(params, limits),
    ]
    if violations:
        raise InvalidRequest(violations)


def check_adapter_id(adapter_id: str) -> None:
    """Raises InvalidRequest for a malformed reference."""
    if violations := list(_check_adapter_id(adapter_id)):
        raise InvalidRequest(violations)


def names_adapter(params: GenerateParams) -> bool:
    """Whether there is a well-formed reference to look up."""
    return bool(params.adapter_id) and not list(_check_adapter_id(params.adapter_id))


def check_text(text: str, field: str, limits: Limits) -> None:
    """Raises InvalidRequest for a text that is empty or too long to tokenize."""
    if violations := list(_check_text(text, field, limits)):
        raise InvalidRequest(violations)


def check_chat(chat: Sequence[Turn], limits: Limits) -> None:
    """Raises InvalidRequest for a conversation with no turns, too many, or wrong ones."""
    if violations := list(_check_chat(chat, limits)):
        raise InvalidRequest(violations)


def check_length(num_tokens: int, field: str, limits: Limits) -> None:
    """Raises InvalidRequest unless the prompt leaves room for one token of answer."""
    if num_tokens == 0:
        raise InvalidRequest.of(field, "holds no tokens.")
    if num_tokens + 1 > limits.max_tokens:
        raise InvalidRequest.of(
            field, f"is {num_tokens} tokens long; at most {limits.max_tokens - 1} fit beside an answer."
        )


def check_ids(ids: Sequence[int], field: str, limits: Limits) -> None:
    """Raises InvalidRequest for ids outside the base's vocabulary."""
    if violations := list(_check_ids(ids, field, limits)):
        raise InvalidRequest(violations)


def _check_adapter_id(adapter_id: str) -> Iterator[Violation]:
    if not adapter_id:
        return
    try:
        parse_reference(adapter_id)
    except InvalidName as error:
        yield Violation("adapter_id", str(error))


def _check_input(params: GenerateParams, limits: Limits) -> Iterator[Violation]:
    given = [field for field in ("prompt", "chat", "token_ids") if getattr(params, field) is not None]
    if len(given) != 1:
        yield Violation("input", "set exactly one of prompt, chat and token_ids.")
        return
    if params.prompt is not None:
        yield from _check_text(params.prompt, "prompt", limits)
    if params.chat is not None:
        yield from _check_chat(params.chat, limits)
    if params.token_ids is not None:
        yield from _check_token_ids(params.token_ids, limits)


def _check_text(text: str, field: str, limits: Limits) -> Iterator[Violation]:
    if not text:
        yield Violation(field, "is empty.")
    # Characters first: a cheap bound before the text is encoded to count its bytes.
    elif len(text) > limits.max_prompt_bytes or len(text.encode()) > limits.max_prompt_bytes:
        yield Violation(field, f"is longer than {limits.max_prompt_bytes} bytes.")


def _check_chat(chat: Sequence[Turn], limits: Limits) -> Iterator[Violation]:
    if not 1 <= len(chat) <= limits.max_turns:
        yield Violation("chat.messages", f"holds {len(chat)} messages; 1 to {limits.max_turns} are taken.")
        return
    for index, turn in enumerate(chat):
        if turn.role not in ROLES:
            yield Violation(f"chat.messages[{index}].role", f"is none of {', '.join(ROLES)}.")
    if sum(len(turn.content.encode()) for turn in chat) > limits.max_prompt_bytes:
        yield Violation("chat.messages", f"are longer than {limits.max_prompt_bytes} bytes together.")


def _check_token_ids(ids: Sequence[int], limits: Limits) -> Iterator[Violation]:
    try:
        check_length(len(ids), "token_ids", limits)
    except InvalidRequest as error:
        yield from error.violations
    else:
        yield from _check_ids(ids, "token_ids", limits)


def _check_ids(ids: Sequence[int], field: str, limits: Limits) -> Iterator[Violation]:
    if ids and not (min(ids) >= 0 and max(ids) < limits.vocab_size):
        yield Violation(field, f"holds ids outside 0 to {limits.vocab_size - 1}.")


def _check_numbers(params: GenerateParams, limits: Limits) -> Iterator[Violation]:
    # field -> (lowest, highest, whether the lowest itself is refused)
    ranges: dict[str, tuple[float, float, bool]] = {
        "temperature": (0, 2, False),
        "top_k": (0, limits.vocab_size, False),
        "top_p": (0, 1, True),
        "min_p": (0, 1, False),
        "repetition_penalty": (0, 10, True),
        "presence_penalty": (-2, 2, False),
        "frequency_penalty": (-2, 2, False),
        "seed": (0, MAX_SEED, False),
        "logprobs": (0, limits.max_logprobs, False),
        "n": (1, limits.max_samples, False),
    }
    for field, (low, high, above) in ranges.items():
        value = getattr(params, field)
        if value is None:
            continue
        if not math.isfinite(value) or not low <= value <= high or (above and value == low):
            yield Violation(f"sampling.{field}", f"must be in {'(' if above else '['}{low}, {high}].")


def _check_lengths(params: GenerateParams) -> Iterator[Violation]:
    if params.max_new_tokens < 1:
        yield Violation("sampling.max_new_tokens", "must be at least 1.")
    if params.min_new_tokens < 0:
        yield Violation("sampling.min_new_tokens", "must not be negative.")
    elif params.min_new_tokens > params.max_new_tokens:
        yield Violation("sampling.min_new_tokens", f"is above max_new_tokens ({params.max_new_tokens}).")


def _check_stops(params: GenerateParams, limits: Limits) -> Iterator[Violation]:
    if len(params.stop) > limits.max_stops:
        yield Violation(
            "sampling.stop", f"holds {len(params.stop)} strings; at most {limits.max_stops} are taken."
        )
    elif not all(1 <= len(stop.encode()) <= limits.max_stop_bytes for stop in params.stop):
        yield Violation("sampling.stop", f"each string must be 1 to {limits.max_stop_bytes} bytes long.")
    if len(params.stop_token_ids) > limits.max_stop_tokens:
        yield Violation(
            "sampling.stop_token_ids",
            f"holds {len(params.stop_token_ids)} ids; at most {limits.max_stop_tokens} are taken.",
        )
    else:
        yield from _check_ids(params.stop_token_ids, "sampling.stop_token_ids", limits)
