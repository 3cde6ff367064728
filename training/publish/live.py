"""What a running server answers, as any client would get it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from lorikeet.client import Client
from lorikeet.errors import ResourceExhausted, Unavailable
from lorikeet.types import Result
from training.data import Row
from training.evaluate import answer_room
from training.evaluation.scores import Score, score
from training.progress import Progress, Report
from training.publish.trained import Trained

# Enough to fill a step, few enough to leave room for the server's other clients.
_AT_ONCE = 16
_TRIES = 5


def marks(
    client: Client, adapter: str, trained: Trained, rows: Sequence[Row], report: Report | None
) -> Score:
    """Of the greedy answers that `adapter` (empty: the base) gives to the rows over the wire."""
    room, said = answer_room(trained.tokenizer, rows), list[str]()
    for start in range(0, len(rows), _AT_ONCE):
        prompts = [trained.prompt_ids(row) for row in rows[start : start + _AT_ONCE]]
        said += [result.text for result in ask(client, adapter, prompts, max_new_tokens=room)]
        if report:
            report(Progress(adapter or "base", len(said), len(rows)))
    return score(said, [row.completion for row in rows])


def ask(
    client: Client,
    adapter: str,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    logprobs: int | None = None,
    ignore_eos: bool | None = None,
) -> list[Result]:
    """Greedy answers to all prompts at once; again, and later, where the server has no room or restarts."""
    for attempt in range(_TRIES):
        running = [
            client.generate(
                prompt,
                adapter=adapter,
                temperature=0.0,
                max_new_tokens=max_new_tokens,
                logprobs=logprobs,
                ignore_eos=ignore_eos,
            )
            for prompt in prompts
        ]
        try:
            return [generation.result() for generation in running]
        except (ResourceExhausted, Unavailable) as error:
            if error.retry_after is None or attempt == _TRIES - 1:
                raise
            for generation in running:
                generation.cancel()
            time.sleep(error.retry_after)
    raise AssertionError("the last attempt returns or raises")
