"""One generation as it comes: an iterator of text that remembers everything that passed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc

from lorikeet.errors import LorikeetError, ServerError, from_rpc
from lorikeet.types import Chunk, Logprobs, Result, Sample, Usage
from lorikeet.v1 import inference_pb2

_FINISH_REASONS = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
}


@dataclass
class _Draft:
    """What has come of one sample so far."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Logprobs] = field(default_factory=list)
    started: inference_pb2.Started | None = None
    finished: inference_pb2.Finished | None = None

    def add(self, message: inference_pb2.GenerateResponse) -> Chunk:
        chunk = Chunk(
            index=message.index,
            text=message.text,
            token_ids=tuple(message.token_ids),
            logprobs=tuple(map(Logprobs.from_proto, message.logprobs)),
            finish_reason=_finish_reason(message.finished) if message.HasField("finished") else "",
        )
        self.texts.append(chunk.text)
        self.token_ids += chunk.token_ids
        self.logprobs += chunk.logprobs
        if message.HasField("started"):
            self.started = message.started
        if message.HasField("finished"):
            self.finished = message.finished
        return chunk

    def sample(self) -> Sample:
        assert self.finished is not None, "only finished drafts become samples"
        return Sample(
            text="".join(self.texts),
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
            finish_reason=_finish_reason(self.finished),
            stop=self.finished.stop,
            seed=self.started.seed if self.started else 0,
            usage=Usage.from_proto(self.finished.usage),
        )


def _finish_reason(finished: inference_pb2.Finished) -> str:
    # A newer server may know reasons that this client does not.
    return _FINISH_REASONS.get(finished.reason, "unknown")


class Generation(Iterator[str]):
    """A running generation. Iterate it for text as it comes, or ask for the whole with `text` or `result`.

    The request is under way from the start, and reading can stop and go on at any point: nothing that
    passed is lost. Leaving the `with` block, or dropping the last reference, cancels what is not finished.
    """

    def __init__(self, call: Any, num_samples: int = 1) -> None:
        self._call = call
        self._drafts = [_Draft() for _ in range(num_samples)]
        self._error: LorikeetError | None = None

    def __next__(self) -> str:
        """The next piece of text, never empty. Raises a LorikeetError if the call fails."""
        self._require_one_sample()
        while (chunk := self._take()) is not None:
            if chunk.text:
                return chunk.text
        raise StopIteration

    def chunks(self) -> Iterator[Chunk]:
        """Every message as it comes, the samples interleaved."""
        while (chunk := self._take()) is not None:
            yield chunk

    def text(self) -> str:
        """Waits for the end and returns the whole answer, what was already iterated included."""
        self._require_one_sample()
        return self.result().text

    def result(self) -> Result:
        """Waits for the end and returns every sample with tokens, usage and the version that answered."""
        while self._take() is not None:
            pass
        started = self._drafts[0].started or inference_pb2.Started()
        samples = tuple(draft.sample() for draft in self._drafts)
        return Result(samples, started.adapter_version, started.adapter_digest)

    def cancel(self) -> None:
        """Ends the call now; reading on raises Cancelled. Does nothing to a finished generation."""
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def _take(self) -> Chunk | None:
        if self._error is not None:
            raise self._error
        try:
            return self._receive()
        except grpc.RpcError as error:
            self._error = from_rpc(error)
            raise self._error from error
        except ServerError as error:
            self._error = error
            self.cancel()
            raise

    def _receive(self) -> Chunk | None:
        message = next(self._call, None)
        if message is None:
            self._require_finished()
            return None
        if message.index >= len(self._drafts):
            raise ServerError(f"The server answered sample {message.index}, which was not asked for.")
        chunk: Chunk = self._drafts[message.index].add(message)
        return chunk

    def _require_finished(self) -> None:
        missing = [str(i) for i, draft in enumerate(self._drafts) if draft.finished is None]
        if missing:
            raise ServerError(f"The stream ended before sample {', '.join(missing)} was finished.")

    def _require_one_sample(self) -> None:
        if len(self._drafts) > 1:
            count = len(self._drafts)
            raise ValueError(f"{count} samples come interleaved: stream chunks() or wait for result().")
