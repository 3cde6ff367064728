"""The engine without front, sockets or gRPC: what the server could do at best."""

import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import torch

from server.engine.build import build_engine
from server.engine.config import EngineConfig
from server.engine.messages import Sampling, Submit


class InProcess:
    def __init__(self, base: Path, store: Path, digests: Sequence[str]) -> None:
        self._engine, _ = build_engine(EngineConfig(base=str(base), adapter_store=store))
        self._digests = digests
        # The engine's own choice; PEFT takes all cores in between.
        self._num_threads = torch.get_num_threads()
        self._ids = count(1)

    def answer(
        self, prompts: Sequence[list[int]], adapters: Sequence[int], num_tokens: int
    ) -> list[list[int]]:
        """All at once, greedy, exactly num_tokens each."""
        torch.set_num_threads(self._num_threads)
        answers: dict[int, list[int]] = {}
        for prompt, adapter in zip(prompts, adapters, strict=True):
            request = Submit(
                id=next(self._ids),
                tenant="bench",
                adapter=self._digests[adapter],
                tokens=prompt,
                sampling=Sampling(max_new_tokens=num_tokens),
                arrived_at=time.monotonic(),
            )
            answers[request.id] = []
            self._engine.give(request)
        while not self._engine.is_idle:
            for token in self._engine.step().tokens:
                answers[token.id].append(token.token)
        return list(answers.values())
