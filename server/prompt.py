"""Whatever a request brings as input, as token ids that fit."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from server.checks import ids_problems, length_problems, rendered_problems, require
from server.requests import GenerateParams, Limits, Turn
from server.text import Text

T = TypeVar("T")

# Below this, tokenizing takes less than handing it to a thread and back.
INLINE_CHARS = 2048


async def encode(text: Text, prompt: str, tenant: str) -> list[int]:
    """The ids of a tenant's prompt. Raises InvalidRequest or NotReady where an adapter's tokenizer fails."""
    return await _ids(text, prompt, tenant, special=True)


async def encode_chat(text: Text, turns: Sequence[Turn], tenant: str, limits: Limits) -> list[int]:
    """The ids of a tenant's conversation. Raises InvalidRequest; NotReady as `encode`."""
    rendered = await _rendered(text, turns, tenant)
    if text.templates is not None:
        require(rendered_problems(rendered, limits))
    return await _ids(text, rendered, tenant, special=False)


async def tokenize(text: Text, params: GenerateParams, limits: Limits, tenant: str) -> list[int]:
    """The ids of checked params' input. Raises InvalidRequest if they do not fit the context."""
    if params.token_ids is not None:
        return list(params.token_ids)
    if params.chat is not None:
        field, ids = "chat", await encode_chat(text, params.chat, tenant, limits)
    else:
        assert params.prompt is not None, "checked params have one input"
        field, ids = "prompt", await encode(text, params.prompt, tenant)
    require(length_problems(len(ids), field, limits))
    # A tokenizer may know tokens that the model has no embedding for.
    require(ids_problems(ids, field, limits))
    return ids


async def _rendered(text: Text, turns: Sequence[Turn], tenant: str) -> str:
    if text.templates is not None:
        return await text.templates.render(tenant, *text.template(), turns)
    return await _off_loop(sum(len(turn.content) for turn in turns), lambda: text.render_chat(turns))


async def _ids(text: Text, given: str, tenant: str, special: bool) -> list[int]:
    if text.encoder is not None:
        return await text.encoder.encode(tenant, given, special)
    return await _off_loop(len(given), lambda: text.encode(given, special))


async def _off_loop(num_chars: int, work: Callable[[], T]) -> T:
    """A long text is worked on off the event loop."""
    return work() if num_chars <= INLINE_CHARS else await asyncio.to_thread(work)
