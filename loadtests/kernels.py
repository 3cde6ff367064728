"""`lorikeet loadtest kernels`: each kernel of a CUDA device beside other libraries' and the floor."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from loadtests.attention_times import measure_attention
from loadtests.figures import LoadTestError, finite, print_table
from loadtests.floors import copy_bandwidth
from loadtests.kernel_figures import KernelTime
from loadtests.product_times import measure_linear
from loadtests.synthetic import SHAPES, config_of
from loadtests.update_times import Tenants, measure_updates
from server.engine.config import check_options, option
from server.model.parts import FUSED

# What is further than this from float64's, of its largest entry, is wrong.
TOLERANCE = 0.02
# Tokens up to which a step can be one of decodes alone.
MOST_DECODES = 64


@dataclass(frozen=True, kw_only=True)
class KernelConfig:
    model: str = option("8b", "shape of the base", choices=tuple(SHAPES))
    tokens: str = option("1,8,16,32,64,128,192,256,1024", "rows of x")
    json: str = option("", "file for all figures")

    def __post_init__(self) -> None:
        """Raises ValueError with every option that cannot be."""
        check_options(self)
        if not all(count.isdecimal() and int(count) for count in self.tokens.split(",")):
            raise ValueError(f"tokens {self.tokens!r} must be whole numbers from 1, with commas between them")


def run(config: KernelConfig) -> int:
    """0 if every result is right."""
    if not torch.cuda.is_available():
        raise LoadTestError("the kernels are for a CUDA device, and there is none here")
    bandwidth = copy_bandwidth(torch.device("cuda"))
    times = measure(config, bandwidth)
    report(times, bandwidth)
    if config.json:
        Path(config.json).write_text(json.dumps(finite([asdict(each) for each in times]), indent=2) + "\n")
    return 0 if all(each.error < TOLERANCE for each in times) else 1


def measure(config: KernelConfig, bandwidth: float) -> list[KernelTime]:
    model, tokens = config_of(config.model), [int(count) for count in config.tokens.split(",")]
    decodes = [count for count in tokens if count <= MOST_DECODES]
    times: list[KernelTime] = []
    for linear, shape in linears(config.model).items():
        times += measure_linear(linear, *shape, tokens, bandwidth)
    if decodes:
        tenants = Tenants(model, max(decodes), torch.device("cuda"))
        for linear, shape in linears(config.model).items():
            times += measure_updates(linear, *shape, decodes, bandwidth, tenants)
        times += measure_attention(model, decodes, bandwidth)
    return times


def linears(model: str) -> dict[str, tuple[int, int]]:
    """The decoder's linears: name -> (out, in)."""
    shapes = config_of(model).linear_shapes()
    parts = {name: [shapes[f"model.layers.0.{part}"] for part in FUSED[name]] for name in FUSED}
    return {name: (sum(rows for rows, _ in each), each[0][1]) for name, each in parts.items()}


def report(times: list[KernelTime], bandwidth: float) -> None:
    rows = [
        (
            each.what,
            str(each.tokens),
            each.name,
            f"{each.microseconds:.1f}",
            f"{each.floor:.1f}",
            f"{each.microseconds / each.floor:.2f}",
            f"{each.error:.4f}" if each.error < TOLERANCE else f"{each.error:.4f} WRONG",
        )
        for each in times
    ]
    title = f"Kernels on {torch.cuda.get_device_name()} (copies {bandwidth / 1e12:.2f} TB/s)"
    print_table(title, ("what", "tokens", "kernel", "us", "floor us", "ratio", "error"), rows)
