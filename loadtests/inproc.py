"""The engine without front, sockets or gRPC: what the server could do at best."""

import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import torch

from server.engine.build import build_engine
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.messages import Sampling, Submit, Token


class InProcess:
    """An engine that answers bursts."""

    def __init__(self, engine: Engine, digests: Sequence[str]) -> None:
        self.engine = engine
        self._digests = digests
        # The engine's own choice; PEFT takes all cores in between.
        self._num_threads = torch.get_num_threads()
        self._ids = count(1)

    @classmethod
    def of_store(cls, base: Path, store: Path, digests: Sequence[str]) -> "InProcess":
        engine, _ = build_engine(EngineConfig(base=str(base), adapter_store=store))
        return cls(engine, digests)

    def answer(
        self, prompts: Sequence[list[int]], adapters: Sequence[int], num_tokens: int
    ) -> list[list[int]]:
        """All at once, greedy, exactly num_tokens each; adapters by their index among the digests."""
        answers = self.tokens(prompts, [self._digests[adapter] for adapter in adapters], num_tokens)
        return [[token.token for token in answer] for answer in answers]

    def tokens(
        self,
        prompts: Sequence[list[int]],
        digests: Sequence[str],
        num_tokens: int,
        logprobs: int | None = None,
    ) -> list[list[Token]]:
        """The same, with all that the engine says. Raises RuntimeError if a request fails."""
        torch.set_num_threads(self._num_threads)
        answers: dict[int, list[Token]] = {}
        for prompt, digest in zip(prompts, digests, strict=True):
            request = Submit(
                id=next(self._ids),
                tenant="bench",
                adapter=digest,
                tokens=prompt,
                sampling=Sampling(max_new_tokens=num_tokens, logprobs=logprobs),
                arrived_at=time.monotonic(),
            )
            answers[request.id] = []
            self.engine.give(request)
        while not self.engine.is_idle:
            report = self.engine.step()
            if report.failures:
                raise RuntimeError(report.failures[0].message)
            for token in report.tokens:
                answers[token.id].append(token)
        return list(answers.values())
