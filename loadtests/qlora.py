"""`lorikeet loadtest qlora`: `lorikeet train` beside a plain loop of transformers, PEFT, bitsandbytes."""

import gc
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from loadtests.figures import Bar, finite, print_table, write_figures
from loadtests.synthetic import SHAPES
from loadtests.train_times import Case, Trained, own_trainer, plain_loop
from server.engine.config import COUNT, check_options, option
from training.quiet import quiet

GOAL = 1.3
# Of the losses before the first timed step: further apart, and the two do not train alike.
TOLERANCE = 0.02


@dataclass(frozen=True, kw_only=True)
class QloraConfig:
    model: str = option("8b", "shape of the base", choices=tuple(SHAPES))
    quantization: str = option("nf4", "how the base is held", choices=("nf4", "none"))
    sequences: str = option("1,4", "sequences in a step")
    length: int = option(1024, "tokens of a sequence", bounds=COUNT)
    rank: int = option(16, "of the adapter, on all linears", bounds=COUNT)
    steps: int = option(12, "steps that are timed", bounds=COUNT)
    warmup: int = option(4, "steps before those", bounds=COUNT)
    json: str = option("", "file for all figures")

    def __post_init__(self) -> None:
        """Raises ValueError with every option that cannot be."""
        check_options(self)
        if not all(count.isdecimal() and int(count) for count in self.sequences.split(",")):
            raise ValueError(
                f"sequences {self.sequences!r} must be whole numbers from 1, with commas between them"
            )


@dataclass(frozen=True)
class Pair:
    """The same case by both."""

    case: Case
    plain: Trained
    own: Trained

    @property
    def name(self) -> str:
        return f"{self.case.sequences} x {self.case.length}{', checkpointing' * self.case.checkpointing}"

    @property
    def speedup(self) -> float:
        return self.own.tokens_per_second / self.plain.tokens_per_second

    @property
    def agrees(self) -> bool:
        return abs(self.own.loss - self.plain.loss) <= TOLERANCE * self.plain.loss


def run(config: QloraConfig) -> int:
    """0 if every case is as fast as it should be, at no more memory, with the same losses."""
    pairs = [_told(_measure(case)) for case in cases(config)]
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "this CPU"
    columns = ("sequences", "plain tokens/s", "own tokens/s", "ratio", "plain GiB", "own GiB", "losses")
    print_table(
        f"LoRA on {config.model}, {config.quantization}, {where}", columns, [_cells(pair) for pair in pairs]
    )
    if config.json:
        Path(config.json).write_text(json.dumps(finite([asdict(pair) for pair in pairs]), indent=2) + "\n")
    return 0 if _bars(pairs) and all(pair.agrees for pair in pairs) else 1


def cases(config: QloraConfig) -> list[Case]:
    return [
        Case(
            config.model,
            config.quantization,
            int(count),
            config.length,
            checkpointing,
            config.rank,
            config.warmup,
            config.steps,
        )
        for checkpointing in (True, False)
        for count in config.sequences.split(",")
    ]


def _measure(case: Case) -> Pair:
    results = []
    for contender in (plain_loop, own_trainer):
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        with quiet():
            results.append(contender(case))
    return Pair(case, *results)


def _told(pair: Pair) -> Pair:
    """At once: the table stands when all have been measured, minutes later."""
    print(*_cells(pair)[:4], sep=", ", file=sys.stderr, flush=True)
    return pair


def _cells(pair: Pair) -> tuple[str, ...]:
    plain, own = pair.plain, pair.own
    return (
        pair.name,
        f"{plain.tokens_per_second:,.0f}",
        f"{own.tokens_per_second:,.0f}",
        f"{pair.speedup:.2f}",
        f"{plain.peak_bytes / 2**30:.1f}",
        f"{own.peak_bytes / 2**30:.1f}",
        f"{plain.loss:.3f} {own.loss:.3f}{'' if pair.agrees else ' WRONG'}",
    )


def _bars(pairs: list[Pair]) -> bool:
    figures: dict[str, float] = {}
    bars: list[Bar] = []
    for pair in pairs:
        figures[f"speedup, {pair.name}"] = pair.speedup
        bars.append(Bar(f"speedup, {pair.name}", GOAL))
        if pair.own.peak_bytes:
            figures[f"memory saved, {pair.name}"] = pair.plain.peak_bytes / pair.own.peak_bytes
            bars.append(Bar(f"memory saved, {pair.name}", 1.0))
    return write_figures(figures, bars)
