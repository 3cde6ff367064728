"""From keyword arguments to a GenerateRequest. Only what the caller sets is sent."""

import difflib
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypedDict

from lorikeet.errors import InvalidRequest, Violation
from lorikeet.v1 import inference_pb2

# Text, the turns of a chat, or token ids.
Prompt = str | Sequence[Mapping[str, str]] | Sequence[int]


class Sampling(TypedDict, total=False):
    """How tokens are chosen. None, like a missing key, leaves the choice to the server."""

    temperature: Annotated[float | None, "0 is greedy (server's default: 0)"]
    top_k: Annotated[int | None, "keep the k most likely tokens; 0 keeps all"]
    top_p: Annotated[float | None, "keep the likeliest tokens that sum to this probability"]
    min_p: Annotated[float | None, "drop tokens less likely than this times the likeliest"]
    repetition_penalty: Annotated[float | None, "divides the logits of tokens seen in prompt or answer"]
    presence_penalty: Annotated[float | None, "subtracted once from tokens seen in the answer"]
    frequency_penalty: Annotated[float | None, "subtracted for each occurrence in the answer"]
    seed: Annotated[int | None, "the same seed gives the same tokens (server's default: drawn)"]
    max_new_tokens: Annotated[int | None, "longest answer in tokens (server's default: 256)"]
    min_new_tokens: Annotated[int | None, "hold off the end until this many tokens are out"]
    stop: Annotated[str | Sequence[str] | None, "end before this text; may be given 4 times"]
    stop_token_ids: Annotated[Sequence[int] | None, "end at this token; may be given 16 times"]
    logprobs: Annotated[int | None, "log probabilities of the chosen and this many likeliest tokens"]
    ignore_eos: Annotated[bool | None, "do not end at the model's end-of-sequence tokens"]
    n: Annotated[int | None, "independent samples of the prompt"]


def build_request(
    prompt: Prompt, adapter: str, sampling: Sampling, session: str = ""
) -> inference_pb2.GenerateRequest:
    """The message for one generation; raises InvalidRequest for values that the contract cannot carry."""
    request = inference_pb2.GenerateRequest(adapter_id=adapter, session_id=session or None)
    if isinstance(prompt, str):
        request.prompt = _text("prompt", prompt)
    elif is_chat(prompt):
        request.chat.CopyFrom(build_chat(prompt))
    else:
        _fill_token_ids(request.token_ids, prompt)
    _fill_sampling(request.sampling, sampling)
    return request


def is_chat(prompt: Any) -> bool:
    """Whether the prompt is a list of turns. An empty list is neither turns nor tokens."""
    is_list = isinstance(prompt, Sequence) and not isinstance(prompt, (bytes, bytearray))
    if not is_list or len(prompt) == 0:
        kind = "an empty list" if is_list else type(prompt).__name__
        sentence = f"must be text, a list of chat turns or a list of token ids, not {kind}."
        raise _invalid(Violation("prompt", sentence))
    return isinstance(prompt[0], Mapping)


def build_chat(turns: Iterable[Any]) -> inference_pb2.Chat:
    """Turns such as {"role": "user", "content": "Hello"} as a message; all wrong turns are named at once."""
    chat, wrong = inference_pb2.Chat(), []
    for position, turn in enumerate(turns):
        if isinstance(turn, Mapping) and set(turn) == {"role", "content"}:
            place = f"chat.messages[{position}]"
            chat.messages.add(
                role=_text(f"{place}.role", turn["role"]), content=_text(f"{place}.content", turn["content"])
            )
        else:
            sentence = "must be a mapping with exactly the keys role and content."
            wrong.append(Violation(f"chat.messages[{position}]", sentence))
    if wrong:
        raise _invalid(*wrong)
    return chat


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise _invalid(Violation(field, f"must be text, not {type(value).__name__}."))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        sentence = "holds half of a surrogate pair, which UTF-8 cannot carry."
        raise _invalid(Violation(field, sentence)) from error
    return value


def _fill_token_ids(message: inference_pb2.TokenIds, ids: Iterable[Any]) -> None:
    try:
        message.ids.extend(map(operator.index, ids))
    except (TypeError, ValueError) as error:
        raise _invalid(Violation("token_ids", f"cannot hold what was given: {error}.")) from error


def _fill_sampling(message: inference_pb2.Sampling, sampling: Sampling) -> None:
    _refuse_unknown(sampling)
    wrong = []
    for name, value in sampling.items():
        try:
            _set(message, name, value)
        except (TypeError, ValueError):
            wrong.append(Violation(f"sampling.{name}", f"cannot be {value!r}."))
    if wrong:
        raise _invalid(*wrong)


def _set(message: inference_pb2.Sampling, name: str, value: object) -> None:
    if value is None:
        return
    if name not in ("stop", "stop_token_ids"):
        setattr(message, name, value)
        return
    # A lone string is one stop, not a list of its letters.
    many = [value] if isinstance(value, str) else value
    getattr(message, name).extend(many)


def _refuse_unknown(sampling: Mapping[str, object]) -> None:
    known = list(Sampling.__annotations__)
    for name in sampling:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"generate() got an unexpected option {name!r}{hint}")


def _invalid(*violations: Violation) -> InvalidRequest:
    # Worded as the server words its own, so that callers need not know who refused.
    return InvalidRequest("; ".join(map(str, violations)), violations=violations)
