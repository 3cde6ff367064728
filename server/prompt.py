"""Whatever a request brings as input, as token ids that fit."""

import asyncio
from collections.abc import Callable, Sequence

from server.checks import ids_problems, length_problems, require
from server.requests import GenerateParams, Limits, Turn
from server.text import Text

# Below this, tokenizing takes less than handing it to a thread and back.
INLINE_CHARS = 2048


async def encode(text: Text, prompt: str) -> list[int]:
    """The ids of a prompt; a long one is tokenized off the event loop."""
    return await _off_loop(text, len(prompt), lambda: text.encode(prompt))


async def encode_chat(text: Text, turns: Sequence[Turn], tenant: str) -> list[int]:
    """The ids of a tenant's conversation; a long one is rendered and tokenized off the event loop."""
    num_chars = sum(len(turn.content) for turn in turns)
    if text.templates is None:
        return await _off_loop(text, num_chars, lambda: text.render_chat(turns))
    rendered = await text.templates.render(tenant, *text.template(), turns)
    return await _off_loop(text, num_chars, lambda: text.encode_rendered(rendered))


async def tokenize(text: Text, params: GenerateParams, limits: Limits, tenant: str) -> list[int]:
    """The ids of checked params' input. Raises InvalidRequest if they do not fit the context."""
    if params.token_ids is not None:
        return list(params.token_ids)
    if params.chat is not None:
        field, ids = "chat", await encode_chat(text, params.chat, tenant)
    else:
        assert params.prompt is not None, "checked params have one input"
        field, ids = "prompt", await encode(text, params.prompt)
    require(length_problems(len(ids), field, limits))
    # A tokenizer may know tokens that the model has no embedding for.
    require(ids_problems(ids, field, limits))
    return ids


async def _off_loop(text: Text, num_chars: int, work: Callable[[], list[int]]) -> list[int]:
    is_quick = text.templates is None and num_chars <= INLINE_CHARS
    return work() if is_quick else await asyncio.to_thread(work)
