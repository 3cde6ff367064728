"""How the fake server answers: delays are a function of the request's number alone."""

import json
import random
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True, kw_only=True)
class Script:
    """Milliseconds. first_ms: median of a log-normal delay before the first token; sigma: its spread.

    capacity: requests that are answered at once, the others wait in turn; 0: all.
    slots: adapters that are held, the least recently used gives way; load_ms: to bring one. 0: all are held.
    gather: nobody gets a turn until so many requests have come.
    fail_every: each n-th request gets UNAVAILABLE (503 over HTTP); 0: none.
    """

    seed: int = 0
    first_ms: float = 20.0
    sigma: float = 0.0
    token_ms: float = 5.0
    tokens_per_message: int = 1
    capacity: int = 0
    slots: int = 0
    load_ms: float = 0.0
    gather: int = 0
    fail_every: int = 0

    def first_seconds(self, index: int) -> float:
        """Before the first token of this request, once its turn has come."""
        spread = random.Random(self.seed << 32 | index).gauss(0.0, self.sigma) if self.sigma else 0.0
        return self.first_ms / 1e3 * float(pow(2.718281828459045, spread))

    def fails(self, index: int) -> bool:
        return self.fail_every > 0 and index % self.fail_every == self.fail_every - 1

    def offsets(self, index: int, tokens: int) -> list[tuple[float, int]]:
        """When each message leaves, in seconds after the request's turn, and how many tokens it has."""
        first, step = self.first_seconds(index), self.tokens_per_message
        return [
            (first + done * self.token_ms / 1e3, min(step, tokens - done)) for done in range(0, tokens, step)
        ]

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(**json.loads(text))
