"""One base of random weights on a device, an engine around it, and what can be measured of the two."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import torch

from loadtests.agreement import Agreement, compare
from loadtests.figures import LoadTestError
from loadtests.floors import synchronize
from loadtests.inproc import InProcess
from loadtests.kernel_times import kernel_times
from loadtests.step_config import MOST_PROMPTS, StepConfig
from loadtests.synthetic import RandomAdapters, RandomBase, in_float32
from server.engine.build import make_engine
from server.engine.config import EngineConfig
from server.engine.device_memory import Arena
from server.engine.engine import Engine
from server.model.decoder import Decoder


class Bench:
    """One base on the device, with an engine around it. clock: in seconds, that of the wall unless told."""

    def __init__(
        self, config: StepConfig, quantization: str, clock: Callable[[], float] | None = None
    ) -> None:
        device = config.torch_device
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.batches = config.batch_sizes
        self.quantization, self.device = quantization, device
        self._config, self._clock = config, clock or time.perf_counter
        with torch.inference_mode():
            self._decoder = RandomBase(config.model, quantization, dtype, device).decoder()
        # Of the weights as they were quantized; the engine lays them out anew.
        self._twin = replace(self._decoder, layers=list(self._decoder.layers))
        self.adapters = RandomAdapters(self._decoder.config, config.rank, dtype, device.type == "cuda")
        self._engine = self._make(self._decoder, EngineConfig(**self._options()))
        self._bare = self._engine
        if "off" in config.mix_names:
            self._bare = self._make(self._decoder, EngineConfig(**self._bare_options()))

    def _options(self) -> dict[str, Any]:
        batch = max(self.batches)
        tokens = max(self._config.prefill + 1024, batch * (self._config.prompt + self._config.long + 32))
        return {
            "base": self._config.model,
            "adapter_slots": batch,
            "adapter_memory": self.adapters.num_bytes * batch + (1 << 20),
            "host_cache_bytes": self.adapters.num_bytes * batch,
            "max_rank": max(self._config.rank, 64),
            "max_running": batch,
            # All prompts fit one step: then long and short answers differ in decode steps alone.
            "step_tokens": max(self._config.prefill, batch * self._config.prompt),
            "cache_tokens": tokens,
            "prefix_cache": False,
        }

    def _bare_options(self) -> dict[str, Any]:
        """Of a server that has no room for adapters."""
        return {**self._options(), "adapter_slots": 1, "adapter_memory": 1 << 20}

    def _make(self, decoder: Decoder, config: EngineConfig) -> InProcess:
        engine, _ = make_engine(config, decoder, decoder.config.max_context, self.adapters)
        return InProcess(engine, [])

    @property
    def engine(self) -> Engine:
        """With room for adapters, of which any number names one."""
        return self._engine.engine

    @property
    def vocab_size(self) -> int:
        return self._decoder.config.vocab_size

    def steps(self) -> Iterator[tuple[int, str, float, float]]:
        """(batch, mix, seconds of a step, of which the host computed)."""
        for batch, mix in product(self.batches, self._config.mix_names):
            # One for all is one each.
            if (batch, mix) != (1, "one"):
                self._answer(batch, mix, 2)
                times = [self._step_seconds(batch, mix) for _ in range(self._config.repeats)]
                seconds, host = (statistics.median(column) for column in zip(*times, strict=True))
                yield batch, mix, seconds, host

    def _step_seconds(self, batch: int, mix: str) -> tuple[float, float]:
        short, long = (self._answer(batch, mix, count) for count in (self._config.short, self._config.long))
        total, host = (
            (b - a) / (self._config.long - self._config.short) for a, b in zip(short, long, strict=True)
        )
        return total, host

    def _answer(self, batch: int, mix: str, num_tokens: int) -> tuple[float, float]:
        """Seconds, and those of them in which nobody waited for the device."""
        engine = self._engine_of(mix)
        begun, waited = self._clock(), engine.engine.seconds_waited
        engine.tokens(self._prompts(batch), digests(mix, batch), num_tokens)
        total = self._clock() - begun
        return total, total - (engine.engine.seconds_waited - waited)

    def _engine_of(self, mix: str) -> InProcess:
        return self._bare if mix == "off" else self._engine

    @property
    def prefill_shapes(self) -> list[tuple[int, int]]:
        """Prompts of a full step and the tokens of all together; then one such prompt alone."""
        count = min(MOST_PROMPTS, max(self.batches))
        each = self._config.prefill // count
        return [(count, count * each), (1, each)] if count > 1 else [(1, each)]

    def prefill(self, mix: str, count: int, tokens: int) -> float:
        """Tokens a second of one step of so many prompts, which have so many tokens together."""
        prompts = self._prompts(count, tokens // count)
        times = []
        for _ in range(self._config.repeats + 1):
            begun = self._clock()
            self._engine_of(mix).tokens(prompts, digests(mix, count), 1)
            times.append(self._clock() - begun)
        return tokens / min(times[1:])

    def agreement(self) -> Agreement:
        """With plain torch over the same weights, and with what float32 makes of them."""
        batch = min(32, max(self.batches))
        prompts, asked = self._prompts(batch), digests("all", batch)
        fast = self._engine.tokens(prompts, asked, self._config.short, logprobs=64)
        greedy = self._engine.tokens(prompts, asked, self._config.short)
        if [[t.token for t in answer] for answer in fast] != [[t.token for t in answer] for answer in greedy]:
            raise LoadTestError("the answers change with the question for log probabilities")
        slow, exact = (
            self._make(twin, EngineConfig(**options)).tokens(prompts, asked, self._config.short, logprobs=64)
            for twin, options in ((self._twin, self._twin_options()), (self._exact(), self._exact_options()))
        )
        return compare(fast, slow, exact)

    def _twin_options(self) -> dict[str, Any]:
        return {**self._options(), "kernels": "torch", "overlap": "off"}

    def _exact_options(self) -> dict[str, Any]:
        options = self._twin_options()
        return {**options, "adapter_memory": 2 * options["adapter_memory"]}

    def _exact(self) -> Decoder:
        with torch.inference_mode():
            return in_float32(self._twin)

    def kernels(self) -> dict[str, float]:
        """Milliseconds of a decode step by kernel, at the largest batch with an adapter each."""
        batch = max(self.batches)
        return kernel_times(lambda count: self._answer(batch, "all", count))

    def bus_seconds(self) -> float:
        """Of a bare copy of as many bytes: what the bus takes."""
        source = self.adapters("0").flat
        target = torch.empty_like(source, device=self.device)
        times = []
        for _ in range(6):
            begun = time.perf_counter()
            target.copy_(source, non_blocking=True)
            synchronize(self.device)
            times.append(time.perf_counter() - begun)
        return min(times)

    def copy_seconds(self) -> float:
        """Of one adapter from host memory to the device, nothing else going on."""
        like, config = self._decoder.embedding, self._decoder.config
        arena = Arena(2 * self.adapters.num_bytes, 1, config, self._config.rank, like)
        times = []
        for number in range(6):
            blob = self.adapters(str(number))
            begun = time.perf_counter()
            placed = arena.place(1, blob)
            assert placed is not None, "an adapter does not fit a memory of twice its size"
            synchronize(self.device)
            times.append(time.perf_counter() - begun)
            arena.remove(placed)
        return min(times)

    def _prompts(self, count: int, length: int = 0) -> list[list[int]]:
        generator = torch.Generator().manual_seed(count)
        shape = (count, length or self._config.prompt)
        prompts: list[list[int]] = torch.randint(
            0, self._decoder.config.vocab_size, shape, generator=generator
        ).tolist()
        return prompts


def digests(mix: str, batch: int) -> list[str]:
    return {
        "off": [""] * batch,
        "none": [""] * batch,
        "one": ["1"] * batch,
        "all": [str(n + 1) for n in range(batch)],
    }[mix]
