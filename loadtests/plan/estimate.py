"""The arithmetic: requests come by chance, and everything that runs shares one step after another.

step(n) = decode(n) / (1 - u)       u = rate * (seconds that a prompt adds), part of all time
n = rate * (answer * step(n + 1) + (seconds that a prompt adds))

The last is Little's law; who looks from inside sees n others and itself.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from loadtests.floors import step_bytes
from loadtests.plan.options import PlanOptions
from loadtests.plan.steps import StepTable
from loadtests.synthetic import config_of
from server.engine.config import EngineConfig
from server.engine.memory import CACHE_SHARE, adapter_bytes, rank_bytes, workspace_bytes

# Activations, adapters and the cache are in half precision on a GPU.
ELEMENT = 2
STEP_TOKENS = 4096
_SEARCHES = 60


@dataclass(frozen=True)
class Room:
    """Bytes of the device; adapters: how many are there at once; cache_tokens: those of all contexts."""

    base: float
    adapter_memory: float
    workspace: float
    cache: float
    adapters: int
    cache_tokens: int


@dataclass(frozen=True)
class Estimate:
    """running: requests under way; most_rate: that the device can do; cold: part that find no adapter."""

    running: float
    per_token: float
    first_token: float
    most_rate: float
    cold: float

    @property
    def fits(self) -> bool:
        return math.isfinite(self.running)


def room_of(options: PlanOptions) -> Room:
    """As the server divides its memory at start."""
    model, total = config_of(options.model), options.memory * 2**30
    config = EngineConfig(
        base=options.model,
        adapter_slots=options.adapter_slots,
        adapter_memory=options.adapter_memory,
        max_running=options.max_running,
        max_rank=max(options.rank, EngineConfig.max_rank),
    )
    embedding = model.vocab_size * model.hidden_size * ELEMENT
    base = step_bytes(model, options.quantization, 0, 0, 0, ELEMENT) + embedding
    adapters = adapter_bytes(config, model, ELEMENT, int(total - base))
    workspace = workspace_bytes(config, model, ELEMENT, STEP_TOKENS)
    cache = max(0.0, (total - base - adapters - workspace) * CACHE_SHARE)
    token_bytes = 2 * model.num_layers * model.kv_size * ELEMENT
    held = min(options.adapter_slots, adapters // (options.rank * rank_bytes(model, ELEMENT)))
    return Room(base, adapters, workspace, cache, int(held), int(cache // token_bytes))


def estimate(options: PlanOptions, table: StepTable, room: Room) -> Estimate:
    """inf where the load does not fit."""
    load = _Load(options, table)
    most = most_running(options, table, room)
    most_rate = _highest(lambda rate: load.at(rate).running_with(most) <= most, options.rate)
    cold = 1 - resident_share(options.tenants, options.alpha, room.adapters)
    if options.rate > most_rate:
        return Estimate(math.inf, math.inf, math.inf, most_rate, cold)
    running = load.running_with(most)
    wait = queue_seconds(running, most, running / options.rate)
    first = wait + load.first_token(running) + cold * table.load + options.front_ms / 1e3
    per_token = load.step(running + 1)
    under_way = options.rate * (first + (options.answer - 1) * per_token)
    return Estimate(under_way, per_token, first, most_rate, cold)


def most_running(options: PlanOptions, table: StepTable, room: Room) -> float:
    """What the measured batches, the server's limit and the cache allow, contexts being half answered."""
    context = options.prompt + options.answer / 2
    return min(options.max_running, table.batches[-1], room.cache_tokens / context)


@dataclass(frozen=True)
class _Load:
    """What steps take under this load."""

    options: PlanOptions
    table: StepTable

    def at(self, rate: float) -> "_Load":
        return _Load(replace(self.options, rate=rate), self.table)

    @property
    def prompts_part(self) -> float:
        """Of all time."""
        return self.options.rate * self.table.prompt(self.options.prompt)

    def step(self, batch: float) -> float:
        """Mean seconds from one token to the next of a batch, with the prompts that come in between."""
        o = self.options
        adapters = different(o.tenants, o.alpha, batch) * (1 - o.base_share)
        return self.table.step(batch, adapters) / max(1e-9, 1 - self.prompts_part)

    def running_with(self, most: float) -> float:
        """Requests in a step, where they are at most so many: the second equation, by halving. inf: more."""
        if self.prompts_part >= 1 or self._asked_of(most) > most:
            return math.inf
        low, high = 0.0, most
        for _ in range(_SEARCHES):
            middle = (low + high) / 2
            is_more = self._asked_of(min(middle + 1, most)) > middle
            low, high = (middle, high) if is_more else (low, middle)
        return high

    def _asked_of(self, batch: float) -> float:
        """Seconds of requests that come in a second, in steps of this batch."""
        o = self.options
        return o.rate * (o.answer * self.step(batch) + self.table.prompt(o.prompt))

    def first_token(self, running: float) -> float:
        """What is left of the step that is under way, if one is, and the step with the prompt.

        A long step is more likely to be met than a short one, and more prompts have come in it.
        """
        o, is_busy = self.options, 1 - math.exp(-running)
        own = self.table.prompt(o.prompt)
        longer = o.rate * own**2
        left = (self.step(max(1.0, running)) + longer) / 2
        return is_busy * (left + o.rate * own * longer) + self.step(running + 1) + own


def _highest(keeps: Callable[[float], bool], start: float) -> float:
    """The largest number that keeps, by doubling and halving."""
    low, high = 0.0, start
    while keeps(high):
        low, high = high, 2 * high
    for _ in range(_SEARCHES):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def queue_seconds(running: float, places: float, seconds: float) -> float:
    """Mean wait for one of so many places that are each held for so long: Erlang's second formula."""
    count = int(places)
    if running >= count:
        return seconds
    blocked = 1.0
    for place in range(1, count + 1):
        blocked = running * blocked / (place + running * blocked)
    waits = blocked / (1 - running / count * (1 - blocked))
    return waits * seconds / (count - running)


def popularity(adapters: int, alpha: float) -> NDArray[np.float64]:
    """[adapters]: the part of the requests that each gets, by zipf's law."""
    shares = np.arange(1, adapters + 1) ** -alpha
    return np.asarray(shares / shares.sum())


def different(adapters: int, alpha: float, batch: float) -> float:
    """How many different adapters a batch has, on average."""
    return float((1 - (1 - popularity(adapters, alpha)) ** batch).sum())


def resident_share(adapters: int, alpha: float, held: int) -> float:
    """Part of the requests that find their adapter, the least recently used giving way: Che's approximation.

    An adapter is there if it was asked for within a time, the same for all, in which `held` are.
    """
    if held >= adapters:
        return 1.0
    shares = popularity(adapters, alpha)
    low, high = 0.0, 1.0
    while (1 - np.exp(-shares * high)).sum() < held:
        high *= 2
    for _ in range(_SEARCHES):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - np.exp(-shares * middle)).sum() < held else (low, middle)
    return float((shares * (1 - np.exp(-shares * high))).sum())
