"""What a flood costs others by the clock: the scheduler as it is, steps as long as an H200 takes for them."""

import random
from collections import Counter

import numpy as np
import pytest

from loadtests.plan.steps import StepTable
from server.engine.blocks import BlockPool
from server.engine.host_cache import HostCache
from server.engine.messages import Sampling, Submit
from server.engine.sampler import Sampled
from server.engine.scheduler import Scheduler
from server.engine.sequence import Chosen
from server.engine.slots import AdapterSlots
from tests.server.engine.test_books import Reader, blob

PROMPT, ANSWER, MAX_RUNNING, MAX_QUEUED = 256, 128, 64, 128
STEPS = StepTable.find("", "8b", "nf4")


class Played:
    """Two tenants' requests at random times; a step is launched while the one before it is under way."""

    def __init__(self, seed: int, rate: float, loud: float, seconds: float) -> None:
        """rate: requests a second, of which the loud tenant asks for `loud` times what the quiet one does."""
        self.slots = AdapterSlots(4, HostCache(Reader(), max_bytes=10 * blob().num_bytes))
        self._scheduler = Scheduler(BlockPool(60_000, 16), self.slots, MAX_RUNNING, step_tokens=4096)
        draw, at = random.Random(seed), 0.0
        self._coming: list[tuple[float, str]] = []
        while (at := at + draw.expovariate(rate)) < seconds:
            self._coming.append((at, "loud" if draw.random() < loud / (loud + 1) else "quiet"))
        self._coming.reverse()
        self._asked: dict[int, tuple[str, float]] = {}
        # Milliseconds to the quiet tenant's first tokens.
        self.first_tokens: list[float] = []

    def play(self) -> None:
        now, under_way, ends_at = 0.0, [], 0.0
        while self._coming or not self._scheduler.is_idle():
            self._let_in(now)
            chosen = self._scheduler.schedule()
            self._scheduler.begin(chosen)
            now = max(now, ends_at)
            self._commit(under_way, now)
            if not chosen and self._scheduler.is_idle() and self._coming:
                now = self._coming[-1][0]
            under_way, ends_at = chosen, now + seconds_of(chosen)

    def _let_in(self, now: float) -> None:
        alive = Counter(tenant for tenant, _ in self._asked.values())
        while self._coming and self._coming[-1][0] <= now:
            at, tenant = self._coming.pop()
            if alive[tenant] < MAX_RUNNING + MAX_QUEUED:
                alive[tenant] += 1
                number = len(self._coming) + 1
                self._asked[number] = tenant, at
                # No two prompts begin alike.
                tokens = [number, *([3] * (PROMPT - 1))]
                sampling = Sampling(max_new_tokens=ANSWER)
                self._scheduler.add(
                    Submit(
                        id=number, tenant=tenant, adapter="", tokens=tokens, sampling=sampling, arrived_at=at
                    )
                )

    def _commit(self, chosen: list[Chosen], now: float) -> None:
        for token in self._scheduler.commit(
            chosen, {c.sequence.id: Sampled(7, None) for c in chosen if c.samples}
        ):
            tenant, at = self._asked[token.id]
            if token.started is not None and tenant == "quiet":
                self.first_tokens.append(1000 * (now - at))
            if token.finish:
                del self._asked[token.id]


def seconds_of(chosen: list[Chosen]) -> float:
    answers = sum(choice.num_tokens == 1 for choice in chosen)
    prompts = sum(choice.num_tokens for choice in chosen) - answers
    return (STEPS.step(answers) if answers else 0.0) + (STEPS.prompt(prompts) if prompts else 0.0)


def first_tokens(seeds: range, rate: float, loud: float, seconds: float) -> list[float]:
    taken: list[float] = []
    for seed in seeds:
        played = Played(seed, rate, loud, seconds)
        played.play()
        played.slots.close()
        taken += played.first_tokens
    return taken


@pytest.mark.parametrize(
    ("seeds", "seconds", "quantile"),
    [(range(2), 15.0, 0.9), pytest.param(range(3), 120.0, 0.99, marks=pytest.mark.long)],
)
def test_first_tokens_come_as_on_a_device_that_others_fill_to_the_brim(
    seeds: range, seconds: float, quantile: float
) -> None:
    """The loud tenant asks for a hundred times what the quiet one does and four times what there is, or for
    about as much as there is."""
    full = np.quantile(first_tokens(seeds, 60.0, 24.25, seconds), quantile)
    flooded = np.quantile(first_tokens(seeds, 240.0, 100.0, seconds), quantile)
    assert flooded <= 1.2 * full
