"""`lorikeet loadtest scaling`: how much faster several processes train than one, and with how much memory.

Each process takes as many sequences a step as the one does alone, so twice the tokens in the same time is 2.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtests.figures import finite, print_table
from loadtests.synthetic import SHAPES
from loadtests.train_times import Case, Trained
from server.engine.config import COUNT, check_options, option
from training.distributed.launch import SHARDINGS, launch

WORKER = "loadtests.scaling_worker"


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    models: str = option("1b,8b", f"shapes of the base: {', '.join(SHAPES)}")
    shardings: str = option("ddp,fsdp2", f"ways to train together: {', '.join(SHARDINGS)}")
    processes: int = option(2, "processes, one for each GPU", bounds=COUNT)
    quantization: str = option("nf4", "how the base is held", choices=("nf4", "none"))
    sequences: int = option(4, "sequences in a step, of each process", bounds=COUNT)
    length: int = option(1024, "tokens of a sequence", bounds=COUNT)
    rank: int = option(16, "of the adapter, on all linears", bounds=COUNT)
    steps: int = option(12, "steps that are timed", bounds=COUNT)
    warmup: int = option(4, "steps before those", bounds=COUNT)
    json: str = option("", "file for all figures")

    def __post_init__(self) -> None:
        """Raises ValueError with every option that cannot be."""
        check_options(self)
        for name, choices in (("models", tuple(SHAPES)), ("shardings", SHARDINGS)):
            value = getattr(self, name)
            if not set(value.split(",")) <= set(choices):
                raise ValueError(f"{name} {value!r} may name {', '.join(choices)}, with commas between them")


@dataclass(frozen=True)
class Scaled:
    """One run; `tokens_per_second` of all its processes, `peak_bytes` of the first."""

    model: str
    sharding: str
    processes: int
    tokens_per_second: float
    peak_bytes: int
    # Of the tokens a second that as many processes alone would have.
    efficiency: float


def run(config: ScalingConfig) -> int:
    scaled = [each for model in config.models.split(",") for each in _measure(model, config)]
    rows = [_cells(each) for each in scaled]
    columns = ("base", "together", "processes", "tokens/s", "of ideal", "GiB of a GPU")
    print_table(f"LoRA, {config.quantization}, {config.sequences} x {config.length} a process", columns, rows)
    if config.json:
        Path(config.json).write_text(json.dumps(finite([asdict(each) for each in scaled]), indent=2) + "\n")
    return 0


def _measure(model: str, config: ScalingConfig) -> Iterator[Scaled]:
    case = Case(
        model,
        config.quantization,
        config.sequences,
        config.length,
        False,
        config.rank,
        config.warmup,
        config.steps,
    )
    alone = _run(case, "none", 1)
    yield Scaled(model, "alone", 1, alone.tokens_per_second, alone.peak_bytes, 1.0)
    for sharding in config.shardings.split(","):
        each = _run(case, sharding, config.processes)
        rate = each.tokens_per_second * config.processes
        ideal = alone.tokens_per_second * config.processes
        yield Scaled(model, sharding, config.processes, rate, each.peak_bytes, rate / ideal)


def _run(case: Case, sharding: str, processes: int) -> Trained:
    """In processes of their own, so that each starts with an empty GPU."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        arguments = [json.dumps(asdict(case)), str(figures)]
        if processes == 1:
            subprocess.run([sys.executable, "-m", WORKER, *arguments], check=True)
        else:
            launch(sharding, processes, WORKER, arguments)
        return Trained(**json.loads(figures.read_text()))


def _cells(each: Scaled) -> tuple[str, ...]:
    return (
        each.model,
        each.sharding,
        str(each.processes),
        f"{each.tokens_per_second:,.0f}",
        f"{each.efficiency:.2f}",
        f"{each.peak_bytes / 2**30:.1f}",
    )
