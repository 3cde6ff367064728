"""The arithmetic. Requests under way n, a step's time s(n), prompts' part of all time u:

n = rate * answer * s(n) / (1 - u)        u = rate * prompt / prefill
"""

import math
from dataclasses import dataclass

import numpy as np

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
    most = _most_running(options, table, room)
    most_rate = _rate(most, options, table)
    running = _running(options, table, most) if options.rate <= most_rate else math.inf
    cold = 1 - resident_share(options.tenants, options.alpha, room.adapters)
    if math.isinf(running):
        return Estimate(running, math.inf, math.inf, most_rate, cold)
    per_token = running / (options.rate * options.answer)
    # A prompt begins with the next step, and waits for its adapter where that is not there.
    first_token = per_token / 2 + options.prompt / table.prefill + cold * table.load
    return Estimate(running, per_token, first_token, most_rate, cold)


def _most_running(options: PlanOptions, table: StepTable, room: Room) -> float:
    """What the measured batches, the server's limit and the cache allow, contexts being half answered."""
    context = options.prompt + options.answer / 2
    return min(options.max_running, table.batches[-1], room.cache_tokens / context)


def _rate(running: float, options: PlanOptions, table: StepTable) -> float:
    """At which so many requests are under way: the first equation, solved for the rate."""
    return running / (options.answer * table.step(running) + running * options.prompt / table.prefill)


def _running(options: PlanOptions, table: StepTable, most: float) -> float:
    low, high = 0.0, most
    for _ in range(_SEARCHES):
        middle = (low + high) / 2
        low, high = (middle, high) if _rate(middle, options, table) < options.rate else (low, middle)
    return high


def resident_share(adapters: int, alpha: float, held: int) -> float:
    """Part of the requests that find their adapter, the least recently used giving way: Che's approximation.

    An adapter is there if it was asked for within a time, the same for all, in which `held` are.
    """
    if held >= adapters:
        return 1.0
    shares = np.arange(1, adapters + 1) ** -alpha
    shares /= shares.sum()
    low, high = 0.0, 1.0
    while (1 - np.exp(-shares * high)).sum() < held:
        high *= 2
    for _ in range(_SEARCHES):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - np.exp(-shares * middle)).sum() < held else (low, middle)
    return float((shares * (1 - np.exp(-shares * high))).sum())
