"""`lorikeet loadtest step`: how long a decode step takes, for each batch, base and mix of adapters.

A step's time is that of LONG new tokens less that of SHORT, over the difference: prompts cancel out.
"""

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from loadtests.agreement import Agreement, compare
from loadtests.figures import print_table
from loadtests.floors import copy_bandwidth, step_bytes, synchronize
from loadtests.inproc import InProcess
from loadtests.kernel_times import kernel_times
from loadtests.synthetic import SHAPES, RandomAdapters, RandomBase, config_of, in_float32
from server.engine.build import make_engine
from server.engine.config import COUNT, COUNT_OR_AUTO, EngineConfig, check_options, option
from server.engine.device_memory import Arena
from server.model.config import ModelConfig
from server.model.decoder import Decoder

SHORT, LONG = 16, 144
# Goals for the 8b shape over nf4 on one H200, every request its own rank-16 adapter: batch -> milliseconds.
GOALS = {1: 2.5, 8: 2.8, 32: 4.2, 64: 5.8}
MIXES = ("none", "one", "all")


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    model: str = option("8b", "shape of the base", choices=tuple(SHAPES))
    batches: str = option("1,8,32,64", "requests in a step")
    quantizations: str = option("nf4,int8,none", "how the base is held")
    mixes: str = option("none,one,all", "adapters in a step: none, one for all requests, or one each")
    rank: int = option(16, "of every adapter", bounds=COUNT)
    prompt: int = option(128, "tokens of a prompt", bounds=COUNT)
    repeats: int = option(3, "measurements of each figure; the median counts", bounds=COUNT)
    prefill: int = option(8192, "tokens in a prefill step; 0 leaves it out", bounds=COUNT_OR_AUTO)
    device: str = option("auto", "auto, cpu or cuda")
    profile: bool = option(True, "list the kernels of one step (on a GPU)")
    check: bool = option(True, "compare answers with plain torch's over the same weights")
    json: str = option("", "file for all figures")

    def __post_init__(self) -> None:
        """Raises ValueError with every option that cannot be."""
        check_options(self)


@dataclass(frozen=True)
class StepTime:
    """Milliseconds of one decode step; host: of those, what the host computed."""

    quantization: str
    batch: int
    mix: str
    step_ms: float
    host_ms: float
    floor_ms: float

    @property
    def ratio(self) -> float:
        return self.step_ms / self.floor_ms


@dataclass(frozen=True)
class PrefillSpeed:
    quantization: str
    mix: str
    tokens_per_second: float


@dataclass
class Results:
    device: str
    bandwidth: float
    steps: list[StepTime]
    prefills: list[PrefillSpeed]
    agreements: dict[str, Agreement]
    kernels: dict[str, dict[str, float]]
    adapter_bytes: int = 0
    adapter_copy_ms: float = 0.0


class Bench:
    """One base on the device, with an engine around it."""

    def __init__(self, config: StepConfig, quantization: str, device: torch.device) -> None:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.batches = [int(batch) for batch in config.batches.split(",")]
        self.quantization, self.device = quantization, device
        self._config = config
        with torch.inference_mode():
            self._decoder = RandomBase(config.model, quantization, dtype, device).decoder()
        # Of the weights as they were quantized; the engine lays them out anew.
        self._twin = replace(self._decoder, layers=list(self._decoder.layers))
        self.adapters = RandomAdapters(self._decoder.config, config.rank, dtype, device.type == "cuda")
        self._engine = self._make(self._decoder, EngineConfig(**self._options()))

    def _options(self) -> dict[str, Any]:
        batch = max(self.batches)
        tokens = max(self._config.prefill + 1024, batch * (self._config.prompt + LONG + 32))
        return {
            "base": self._config.model,
            "adapter_slots": batch,
            "adapter_memory": self.adapters.num_bytes * batch + (1 << 20),
            "host_cache_bytes": self.adapters.num_bytes * batch,
            "max_rank": max(self._config.rank, 64),
            "max_running": batch,
            "step_tokens": max(self._config.prefill, 512),
            "cache_tokens": tokens,
            "prefix_cache": False,
        }

    def _make(self, decoder: Decoder, config: EngineConfig) -> InProcess:
        engine, _ = make_engine(config, decoder, decoder.config.max_context, self.adapters)
        return InProcess(engine, [])

    def steps(self) -> Iterator[tuple[int, str, float, float]]:
        """(batch, mix, seconds of a step, of which the host computed)."""
        for batch, mix in product(self.batches, self._config.mixes.split(",")):
            # One for all is one each.
            if (batch, mix) != (1, "one"):
                self._answer(batch, mix, 2)
                times = [self._step_seconds(batch, mix) for _ in range(self._config.repeats)]
                seconds, host = (statistics.median(column) for column in zip(*times, strict=True))
                yield batch, mix, seconds, host

    def _step_seconds(self, batch: int, mix: str) -> tuple[float, float]:
        short, long = self._answer(batch, mix, SHORT), self._answer(batch, mix, LONG)
        total, host = ((b - a) / (LONG - SHORT) for a, b in zip(short, long, strict=True))
        return total, host

    def _answer(self, batch: int, mix: str, num_tokens: int) -> tuple[float, float]:
        """Seconds, and those of them in which nobody waited for the device."""
        begun, waited = time.perf_counter(), self._engine.engine.seconds_waited
        self._engine.tokens(self._prompts(batch), digests(mix, batch), num_tokens)
        total = time.perf_counter() - begun
        return total, total - (self._engine.engine.seconds_waited - waited)

    def prefill(self, mix: str) -> float:
        """Tokens a second of one full step of prompts."""
        count = min(8, max(self.batches))
        length = self._config.prefill // count
        prompts = self._prompts(count, length)
        times = []
        for _ in range(self._config.repeats + 1):
            begun = time.perf_counter()
            self._engine.tokens(prompts, digests(mix, count), 1)
            times.append(time.perf_counter() - begun)
        return count * length / min(times[1:])

    def agreement(self) -> Agreement:
        """With plain torch over the same weights, and with what float32 makes of them."""
        batch = min(32, max(self.batches))
        prompts, asked = self._prompts(batch), digests("all", batch)
        fast = self._engine.tokens(prompts, asked, SHORT, logprobs=64)
        greedy = self._engine.tokens(prompts, asked, SHORT)
        if [[t.token for t in answer] for answer in fast] != [[t.token for t in answer] for answer in greedy]:
            raise SystemExit("asking for log probabilities changes the answers")
        slow, exact = (
            self._make(twin, EngineConfig(**options)).tokens(prompts, asked, SHORT, logprobs=64)
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
    return {"none": [""] * batch, "one": ["1"] * batch, "all": [str(n + 1) for n in range(batch)]}[mix]


def run(config: StepConfig) -> int:
    """0 if the answers agree with plain torch's."""
    device = torch.device(
        config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    )
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    results = Results(name, copy_bandwidth(device), [], [], {}, {})
    for quantization in config.quantizations.split(","):
        measure(config, quantization, device, results)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    report(config, results)
    if config.json:
        Path(config.json).write_text(json.dumps(asdict(results), indent=2) + "\n")
    return 0 if all(agreement.is_explained for agreement in results.agreements.values()) else 1


def measure(config: StepConfig, quantization: str, device: torch.device, results: Results) -> None:
    bench = Bench(config, quantization, device)
    for batch, mix, seconds, host in bench.steps():
        floor = _floor(config, bench, batch, mix) / results.bandwidth
        results.steps.append(StepTime(quantization, batch, mix, seconds * 1e3, host * 1e3, floor * 1e3))
    for mix in config.mixes.split(",") if config.prefill else ():
        results.prefills.append(PrefillSpeed(quantization, mix, bench.prefill(mix)))
    results.adapter_bytes = bench.adapters.num_bytes
    results.adapter_copy_ms = bench.copy_seconds() * 1e3
    if config.profile and device.type == "cuda":
        results.kernels[quantization] = bench.kernels()
    if config.check:
        results.agreements[quantization] = bench.agreement()


def _floor(config: StepConfig, bench: Bench, batch: int, mix: str) -> float:
    model: ModelConfig = config_of(config.model)
    present = {"none": 0, "one": 1, "all": batch}[mix] * bench.adapters.num_bytes
    context = config.prompt + (SHORT + LONG) // 2
    size = 2 if bench.device.type == "cuda" else 4
    return step_bytes(model, bench.quantization, batch, present, context, size)


def report(config: StepConfig, results: Results) -> None:
    print_table(
        f"Decode step, {config.model} shape, rank {config.rank}, on {results.device}"
        f" (copies {results.bandwidth / 1e12:.2f} TB/s)",
        ("base", "batch", "adapters", "step ms", "tokens/s", "host ms", "floor ms", "ratio", "goal ms"),
        [_row(config, each) for each in results.steps],
    )
    if results.prefills:
        rows = [(p.quantization, p.mix, f"{p.tokens_per_second:,.0f}") for p in results.prefills]
        print_table(f"Prefill, {config.prefill} tokens in a step", ("base", "adapters", "tokens/s"), rows)
    copied = f"{results.adapter_bytes / 1e6:.0f} MB in {results.adapter_copy_ms:.2f} ms"
    print_table("One adapter", ("", "from host memory to the device"), [(f"rank {config.rank}", copied)])
    for quantization, kernels in results.kernels.items():
        rows = [(name, f"{ms:.3f}", f"{ms / sum(kernels.values()):.0%}") for name, ms in kernels.items()]
        print_table(f"Kernels of a step, {quantization}, largest batch", ("kernel", "ms", "share"), rows)
    if results.agreements:
        said = [(name, *agreement.row()) for name, agreement in results.agreements.items()]
        print_table("Answers against plain torch's", ("base", *Agreement.COLUMNS), said)


def _row(config: StepConfig, each: StepTime) -> tuple[str, ...]:
    is_goal = (config.model, each.quantization, each.mix) == ("8b", "nf4", "all") and each.batch in GOALS
    return (
        each.quantization,
        str(each.batch),
        each.mix,
        f"{each.step_ms:.2f}",
        f"{each.batch / each.step_ms * 1e3:,.0f}",
        f"{each.host_ms:.2f}",
        f"{each.floor_ms:.2f}",
        f"{each.ratio:.2f}",
        f"{GOALS[each.batch]:.1f}" if is_goal else "",
    )
