"""Between protobuf messages and the front's own records."""

from collections.abc import Sequence
from typing import Any

from lorikeet.v1 import inference_pb2 as pb
from server.requests import GenerateParams, Turn

# Fields with presence: unset means the default of GenerateParams, which is the one the contract names.
_OPTIONAL = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "max_new_tokens",
    "min_new_tokens",
    "logprobs",
    "ignore_eos",
    "n",
)


def params_of(request: pb.GenerateRequest, longest: int = 0) -> GenerateParams:
    """The request as the validator knows it; an answer whose length it leaves open is at most `longest`."""
    sampling = request.sampling
    fields: dict[str, Any] = {name: getattr(sampling, name) for name in _OPTIONAL if sampling.HasField(name)}
    if longest:
        fields.setdefault("max_new_tokens", min(longest, GenerateParams.max_new_tokens))
    match request.WhichOneof("input"):
        case "prompt":
            fields["prompt"] = request.prompt
        case "chat":
            fields["chat"] = turns_of(request.chat)
        case "token_ids":
            fields["token_ids"] = list(request.token_ids.ids)
    return GenerateParams(
        adapter_id=request.adapter_id,
        session_id=request.session_id,
        priority=request.priority,
        stop=tuple(sampling.stop),
        stop_token_ids=tuple(sampling.stop_token_ids),
        **fields,
    )


def turns_of(chat: pb.Chat) -> Sequence[Turn]:
    return [Turn(message.role, message.content) for message in chat.messages]
