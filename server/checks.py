"""The one validator of requests for text, for every front end, whatever protocol it speaks."""

import math
from collections.abc import Iterable, Iterator, Sequence

from adapters.errors import InvalidName
from adapters.grants import split_reference
from server.errors import InvalidRequest, Violation
from server.requests import GenerateParams, Limits, Turn

ROLES = ("system", "user", "assistant")
MAX_SEED = 2**64 - 1


def check(params: GenerateParams, limits: Limits) -> None:
    """Raises InvalidRequest with every violation; of what passes, a text's length in tokens is still open."""
    violations = [
        *adapter_id_problems(params.adapter_id),
        *_session_problems(params.session_id, limits),
        *_input_problems(params, limits),
        *_range_problems(params, limits),
        *_new_tokens_problems(params),
        *_priority_problems(params, limits),
        *_stop_problems(params, limits),
    ]
    require(violations)


def names_adapter(params: GenerateParams) -> bool:
    """Whether there is a well-formed reference to look up."""
    return bool(params.adapter_id) and not list(adapter_id_problems(params.adapter_id))


def require(violations: Iterable[Violation]) -> None:
    """Raises InvalidRequest with all of them, if there are any."""
    if found := list(violations):
        raise InvalidRequest(found)


def adapter_id_problems(adapter_id: str) -> Iterator[Violation]:
    if not adapter_id:
        return
    try:
        split_reference(adapter_id)
    except InvalidName as error:
        yield Violation("adapter_id", str(error))


def _session_problems(session_id: str, limits: Limits) -> Iterator[Violation]:
    if len(session_id.encode()) > limits.max_session_bytes:
        yield Violation("session_id", f"is longer than {limits.max_session_bytes} bytes.")


def _input_problems(params: GenerateParams, limits: Limits) -> Iterator[Violation]:
    given = [field for field in ("prompt", "chat", "token_ids") if getattr(params, field) is not None]
    if len(given) != 1:
        yield Violation("input", "set exactly one of prompt, chat and token_ids.")
        return
    if params.prompt is not None:
        yield from text_problems(params.prompt, "prompt", limits)
    if params.chat is not None:
        yield from chat_problems(params.chat, limits)
    if params.token_ids is not None:
        too_long = list(length_problems(len(params.token_ids), "token_ids", limits))
        yield from too_long or ids_problems(params.token_ids, "token_ids", limits)


def text_problems(text: str, field: str, limits: Limits) -> Iterator[Violation]:
    if not text:
        yield Violation(field, "is empty.")
    # Characters first: a cheap bound before the text is encoded to count its bytes.
    elif len(text) > limits.max_prompt_bytes or len(text.encode()) > limits.max_prompt_bytes:
        yield Violation(field, f"is longer than {limits.max_prompt_bytes} bytes.")


def chat_problems(chat: Sequence[Turn], limits: Limits) -> Iterator[Violation]:
    if not 1 <= len(chat) <= limits.max_turns:
        yield Violation("chat.messages", f"holds {len(chat)} messages; 1 to {limits.max_turns} are taken.")
        return
    for index, turn in enumerate(chat):
        if turn.role not in ROLES:
            yield Violation(f"chat.messages[{index}].role", f"is none of {', '.join(ROLES)}.")
    if sum(len(turn.content.encode()) for turn in chat) > limits.max_prompt_bytes:
        yield Violation("chat.messages", f"are longer than {limits.max_prompt_bytes} bytes together.")


def rendered_problems(rendered: str, limits: Limits) -> Iterator[Violation]:
    """Of a conversation as an adapter's chat template makes it: a long text of short turns, if it likes."""
    if len(rendered) > limits.max_prompt_bytes:
        most = limits.max_prompt_bytes
        yield Violation(
            "chat", f"is {len(rendered)} characters by the adapter's template; at most {most} are taken."
        )


def length_problems(num_tokens: int, field: str, limits: Limits) -> Iterator[Violation]:
    """A prompt leaves room for one token of answer."""
    if num_tokens == 0:
        yield Violation(field, "holds no tokens.")
    elif num_tokens + 1 > limits.max_tokens:
        most = limits.max_tokens - 1
        yield Violation(field, f"is {num_tokens} tokens long; at most {most} fit beside an answer.")


def ids_problems(ids: Sequence[int], field: str, limits: Limits) -> Iterator[Violation]:
    if ids and not (min(ids) >= 0 and max(ids) < limits.vocab_size):
        yield Violation(field, f"holds ids outside 0 to {limits.vocab_size - 1}.")


def _range_problems(params: GenerateParams, limits: Limits) -> Iterator[Violation]:
    # field -> (lowest, highest, whether the lowest itself is refused)
    ranges: dict[str, tuple[float, float, bool]] = {
        "temperature": (0, 2, False),
        "top_k": (0, limits.vocab_size, False),
        "top_p": (0, 1, True),
        "min_p": (0, 1, False),
        # Below, the penalty itself makes logits that are not finite.
        "repetition_penalty": (0.01, 10, False),
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


def _priority_problems(params: GenerateParams, limits: Limits) -> Iterator[Violation]:
    if abs(params.priority) > limits.max_priority:
        yield Violation("priority", f"must be in [-{limits.max_priority}, {limits.max_priority}].")


def _new_tokens_problems(params: GenerateParams) -> Iterator[Violation]:
    if params.max_new_tokens < 1:
        yield Violation("sampling.max_new_tokens", "must be at least 1.")
    if params.min_new_tokens < 0:
        yield Violation("sampling.min_new_tokens", "must not be negative.")
    elif params.min_new_tokens > params.max_new_tokens:
        yield Violation("sampling.min_new_tokens", f"is above max_new_tokens ({params.max_new_tokens}).")


def _stop_problems(params: GenerateParams, limits: Limits) -> Iterator[Violation]:
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
        yield from ids_problems(params.stop_token_ids, "sampling.stop_token_ids", limits)
