"""The token ids of a prompt: a function of the workload's seed and the request alone."""

import random
from dataclasses import dataclass
from zlib import crc32

from loadtests.workload.events import Request

# Ids below are special tokens of most vocabularies.
FIRST_ID = 8


@dataclass(frozen=True)
class Prompts:
    seed: int
    shared: int
    vocab_size: int

    def __call__(self, request: Request) -> list[int]:
        """[prompt_tokens], the first `shared` of them the same for all requests of one adapter."""
        shared = min(self.shared, request.prompt_tokens)
        head = self._draw(crc32(f"{request.tenant}/{request.adapter}".encode()), shared)
        return head + self._draw(request.index + (1 << 32), request.prompt_tokens - shared)

    def _draw(self, number: int, count: int) -> list[int]:
        numbers = random.Random(self.seed << 40 | number)
        return numbers.choices(range(FIRST_ID, self.vocab_size), k=count)
