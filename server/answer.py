"""One sequence's tokens on their way to the client."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import cast

from lorikeet.v1 import inference_pb2 as pb
from server.engine.messages import Failure, Started, Token
from server.errors import AdapterUnusable, DeadlinePassed, FrontError, GenerationFailed, QueueFull
from server.job import Job
from server.link import EngineLost
from server.metrics import Metrics
from server.text import Text
from server.trace import Facts, Phases

log = logging.getLogger(__name__)

Write = Callable[[pb.GenerateResponse], Awaitable[None]]
UNKNOWN_START = Started(0, 0.0, 0.0)


class Sample:
    """Turns one sequence's tokens into messages."""

    def __init__(self, index: int, job: Job, text: Text, metrics: Metrics) -> None:
        self.finished = False
        self.job = job
        self._index = index
        self._text = text
        self._metrics = metrics
        with text.blaming("adapter_id"):
            self._detokenizer = text.detokenizer(job.params.stop, job.context)
        self._num_tokens = 0
        self._started: Started | None = None
        self._first_at = self._last_at = 0.0

    @property
    def phases(self) -> Phases:
        """Of a sample that has begun. The adapter is waited for within the queue."""
        assert self._started is not None, "the sample has a token"
        arrived_at, started = self.job.arrived_at, self._started
        scheduled_at = arrived_at + started.queue_seconds
        return {
            "queue": (arrived_at, scheduled_at),
            "load": (scheduled_at - started.load_seconds, scheduled_at),
            "prefill": (scheduled_at, self._first_at),
            "decode": (self._first_at, self._last_at),
        }

    @property
    def facts(self) -> Facts:
        """Of the same, for a span."""
        return {
            "lorikeet.tenant": self.job.tenant,
            "lorikeet.adapter": self.job.adapter_digest,
            "lorikeet.prompt_tokens": len(self.job.prompt),
            "lorikeet.completion_tokens": self._num_tokens,
        }

    def take(self, tokens: Sequence[Token]) -> pb.GenerateResponse:
        """One message for all tokens that came since the last one."""
        now = time.monotonic()
        message = pb.GenerateResponse(index=self._index)
        if self._started is None:
            self._begin(tokens[0].started or UNKNOWN_START, now, message)
        end = tokens[-1].finish
        ids = [token.token for token in tokens]
        with self._text.blaming("adapter_id"):
            message.text, num_used = self._detokenize(ids, end)
            if tokens[0].logprobs is not None:
                message.logprobs.extend(map(self._logprobs, tokens[:num_used]))
        message.token_ids.extend(ids[:num_used])
        self._count(num_used, now)
        if end or self._detokenizer.stopped is not None:
            self._finish(end, message)
        return message

    def _detokenize(self, ids: list[int], end: str) -> tuple[str, int]:
        """The new text, and how many tokens belong to the answer: none behind a stop string."""
        detokenizer = self._detokenizer
        before = detokenizer.num_tokens
        # The token that stopped the sequence has no text of its own.
        text = detokenizer.push(ids[:-1] if end == "stop" else ids)
        if detokenizer.stopped is not None:
            return text, detokenizer.num_tokens - before
        return (text + detokenizer.finish() if end else text), len(ids)

    def _begin(self, started: Started, now: float, message: pb.GenerateResponse) -> None:
        self._started = started
        self._first_at = self._last_at = now
        job = self.job
        job.place.begin(now - job.arrived_at)
        message.started.prompt_tokens = len(job.prompt)
        message.started.cached_tokens = started.cached_tokens
        message.started.adapter_version = job.adapter_version
        message.started.adapter_digest = job.adapter_digest
        message.started.seed = job.seed_of(self._index)
        self._metrics.first_token.observe(now - job.arrived_at)
        self._metrics.queue.observe(started.queue_seconds)
        self._metrics.load.observe(started.load_seconds)

    def _count(self, num_new: int, now: float) -> None:
        if self._num_tokens and num_new:
            for _ in range(num_new):
                self._metrics.inter_token.observe((now - self._last_at) / num_new)
        self._num_tokens += num_new
        self._last_at = now
        self._metrics.answer_tokens.inc(num_new)
        self._metrics.tenants.add(self.job.tenant, generation_tokens=num_new)
        self.job.place.spend(num_new)

    def _finish(self, end: str, message: pb.GenerateResponse) -> None:
        self.finished = True
        assert self._started is not None
        stop = self._detokenizer.stopped
        by_stop = stop is not None or end == "stop"
        self._metrics.samples.labels("stop" if by_stop else "length").inc()
        finished = message.finished
        finished.reason = pb.FINISH_REASON_STOP if by_stop else pb.FINISH_REASON_LENGTH
        finished.stop = stop or ""
        usage = finished.usage
        usage.prompt_tokens = len(self.job.prompt)
        usage.completion_tokens = self._num_tokens
        usage.cached_tokens = self._started.cached_tokens
        usage.queue_seconds = self._started.queue_seconds
        usage.load_seconds = self._started.load_seconds
        usage.first_token_seconds = self._first_at - self.job.arrived_at
        usage.total_seconds = self._last_at - self.job.arrived_at

    def _logprobs(self, token: Token) -> pb.TokenLogprobs:
        assert token.logprobs is not None
        chosen = self._logprob(token.token, token.logprobs.chosen)
        return pb.TokenLogprobs(chosen=chosen, top=[self._logprob(*pair) for pair in token.logprobs.top])

    def _logprob(self, token_id: int, logprob: float) -> pb.TokenLogprob:
        return pb.TokenLogprob(token_id=token_id, text=self._text.token_text(token_id), logprob=logprob)


async def _first_within(
    tokens: AsyncIterator[list[Token] | Failure], patience: float
) -> AsyncIterator[list[Token] | Failure]:
    """The same items; raises QueueFull if the first takes longer than `patience` seconds."""
    try:
        async with asyncio.timeout(patience):
            first = await anext(tokens, None)
    except TimeoutError as error:
        raise QueueFull(f"The request waited {patience:g} seconds for its first token; try later.") from error
    if first is not None:
        yield first
        async for item in tokens:
            yield item


async def deliver(
    sample: Sample, tokens: AsyncIterator[list[Token] | Failure], write: Write, patience: float
) -> None:
    """Writes a sample's messages, one for each item of the link. Leaving early aborts the sequence.

    Raises QueueFull if nothing comes for `patience` seconds at the start.
    """
    async with aclosing(cast(AsyncGenerator[list[Token] | Failure, None], tokens)):
        async for item in _first_within(tokens, patience):
            if isinstance(item, Failure):
                raise _error(item, sample.job)
            await write(sample.take(item))
            if sample.finished:
                return
    raise EngineLost("The engine ended the answer early; try again.")


def _error(failure: Failure, job: Job) -> FrontError:
    log.warning("sequence %d failed (%s): %s", failure.id, failure.reason, failure.message)
    of = f"Adapter {job.adapter_version}" if job.adapter is not None else "The base"
    match failure.reason:
        case "deadline":
            return DeadlinePassed("The call's deadline passed.")
        case "adapter":
            return AdapterUnusable(job.adapter_version, f"{of} could not be loaded: {failure.message}")
        case "numeric":
            return GenerationFailed(f"{of} gave numbers that are not finite; its weights are at fault.")
    return GenerationFailed("The engine could not go on with this answer; try again.")
