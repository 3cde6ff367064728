"""`lorikeet loadtest step`: how long a decode step takes, for each batch, base and mix of adapters.

A step's time is that of long answers less that of short ones, over the tokens between: prompts cancel out.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path

import torch

from loadtests.agreement import Agreement
from loadtests.figures import finite, print_table
from loadtests.floors import copy_bandwidth, step_bytes
from loadtests.step_bench import Bench
from loadtests.step_config import StepConfig
from loadtests.synthetic import config_of

# Goals for the 8b shape over nf4 on one H200, every request its own rank-16 adapter: batch -> milliseconds.
GOALS = {1: 2.5, 8: 2.8, 32: 4.2, 64: 5.8}


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
    # Of one step.
    prompts: int
    tokens: int


@dataclass
class Results:
    device: str
    bandwidth: float
    steps: list[StepTime] = field(default_factory=list)
    prefills: list[PrefillSpeed] = field(default_factory=list)
    agreements: dict[str, Agreement] = field(default_factory=dict)
    kernels: dict[str, dict[str, float]] = field(default_factory=dict)
    adapter_bytes: int = 0
    adapter_copy_ms: float = 0.0
    # What the bus takes for as many bytes.
    bus_copy_ms: float = 0.0


def run(config: StepConfig) -> int:
    """0 if the answers agree with plain torch's."""
    device = config.torch_device
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    results = Results(name, copy_bandwidth(device))
    for quantization in config.quantizations.split(","):
        measure(config, quantization, results)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    report(config, results)
    if config.json:
        Path(config.json).write_text(json.dumps(finite(asdict(results)), indent=2) + "\n")
    return 0 if all(agreement.is_explained for agreement in results.agreements.values()) else 1


def measure(
    config: StepConfig, quantization: str, results: Results, clock: Callable[[], float] | None = None
) -> Bench:
    """Adds to the results; returns what was measured."""
    bench = Bench(config, quantization, clock)
    for batch, mix, seconds, host in bench.steps():
        floor = _floor(config, bench, batch, mix) / results.bandwidth
        results.steps.append(StepTime(quantization, batch, mix, seconds * 1e3, host * 1e3, floor * 1e3))
    for mix, (count, tokens) in product(config.mix_names if config.prefill else (), bench.prefill_shapes):
        speed = bench.prefill(mix, count, tokens)
        results.prefills.append(PrefillSpeed(quantization, mix, speed, count, tokens))
    results.adapter_bytes = bench.adapters.num_bytes
    results.adapter_copy_ms = bench.copy_seconds() * 1e3
    results.bus_copy_ms = bench.bus_seconds() * 1e3
    if config.profile and bench.device.type == "cuda":
        results.kernels[quantization] = bench.kernels()
    if config.check:
        results.agreements[quantization] = bench.agreement()
    return bench


def _floor(config: StepConfig, bench: Bench, batch: int, mix: str) -> float:
    """Bytes, with contexts as long as they are half way between a short answer and a long one."""
    present = {"off": 0, "none": 0, "one": 1, "all": batch}[mix] * bench.adapters.num_bytes
    context = config.prompt + (config.short + config.long) // 2
    size = 2 if bench.device.type == "cuda" else 4
    return step_bytes(config_of(config.model), bench.quantization, batch, present, context, size)


def report(config: StepConfig, results: Results) -> None:
    print_table(
        f"Decode step, {config.model} shape, rank {config.rank}, on {results.device}"
        f" (copies {results.bandwidth / 1e12:.2f} TB/s)",
        ("base", "batch", "adapters", "step ms", "tokens/s", "host ms", "floor ms", "ratio", "goal ms"),
        [_row(config, each) for each in results.steps],
    )
    if results.prefills:
        print_table(
            "Prefill, a step",
            ("base", "adapters", "prompts", "tokens", "tokens/s"),
            [
                (p.quantization, p.mix, str(p.prompts), f"{p.tokens:,}", f"{p.tokens_per_second:,.0f}")
                for p in results.prefills
            ],
        )
    copied = f"{results.adapter_bytes / 1e6:.0f} MB in {results.adapter_copy_ms:.2f} ms"
    copied += f" (a bare copy: {results.bus_copy_ms:.2f})"
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
