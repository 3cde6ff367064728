"""`lorikeet loadtest training`: tokens a second of adapters trained at once, and of one after another.

One after another is measured twice: this trainer with one job, and transformers with PEFT in a plain loop.
All lines are measured in turns, and a ratio is the median of its rounds, each of which has both sides.
"""

import gc
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from loadtests.concurrent_config import PEFT, SHARED, TrainingConfig
from loadtests.figures import finite, print_table
from loadtests.peft_loop import PeftLoop
from loadtests.random_model import random_model
from loadtests.synthetic import SHAPES
from loadtests.turns import Spread, Times, Work, in_turns, ratios
from training.concurrent.base import SharedBase
from training.concurrent.job import Job
from training.concurrent.rows import Rows
from training.concurrent.trainer import ConcurrentTrainer
from training.config import LoraSection, OptimConfig, TrainConfig
from training.encode import IGNORED, Example

# Steps of one line in a round.
MOST_REPEATS = 8


@dataclass(frozen=True)
class Speed:
    """One line, by the median of its rounds. gib: the most that a step added on the device; None on a CPU."""

    how: str
    adapters: int
    step_seconds: float
    tokens_per_second: float
    gib: float | None
    times: Times = field(default_factory=lambda: Times([], []))

    def over(self, alone: "Speed", processor: bool = False) -> Spread:
        """Its tokens a second over those of one adapter, or a processor's second."""
        mine, theirs = (speed.times.processor if processor else speed.times.clock for speed in (self, alone))
        return ratios(theirs, mine, self.adapters / alone.adapters)


@dataclass(frozen=True)
class Line:
    """What is to be measured, and the most that the device held when it was tried."""

    how: str
    adapters: int
    step: Callable[[], object]
    gib: float | None


def run(config: TrainingConfig) -> int:
    """0: figures are for the reader to judge, as the ratio depends on what is compared with."""
    speeds = list(measure(config))
    report(config, speeds)
    if config.json:
        name = device_name(config.torch_device)
        figures = {"config": asdict(config), "device": name, "speeds": [asdict(each) for each in speeds]}
        Path(config.json).write_text(json.dumps(finite(figures), indent=2) + "\n")
    return 0


def measure(config: TrainingConfig) -> Iterator[Speed]:
    """Of each mode its PEFT loop, one adapter, and more at once."""
    for mode in config.modes.split(","):
        with tempfile.TemporaryDirectory(prefix="lorikeet-training-") as folder:
            lines = list(_together(config, mode, Path(folder)))
            if config.peft and config.quantization != "int8":
                lines.insert(0, _peft(config))
            yield from _measured(config, lines)


def _measured(config: TrainingConfig, lines: list[Line]) -> Iterator[Speed]:
    repeats = [min(MOST_REPEATS, max(1, config.counts[-1] // line.adapters)) for line in lines]
    works = [Work(line.step, count) for line, count in zip(lines, repeats, strict=True)]
    all_times = in_turns(works, config.torch_device, config.rounds)
    for line, times in zip(lines, all_times, strict=True):
        seconds = statistics.median(times.clock)
        tokens = line.adapters * config.rows * config.length
        yield Speed(line.how, line.adapters, seconds, tokens / seconds, line.gib, times)


def _peft(config: TrainingConfig) -> Line:
    held = _forget(config.torch_device)
    loop = PeftLoop(_model(config), int(config.ranks.split(",")[0]), config.checkpointing)
    rows = [_example(config, number).input_ids for number in range(config.rows)]
    ids = torch.tensor(rows, device=config.torch_device)
    return _tried(config, PEFT, 1, lambda: loop.step(ids), held)


def _together(config: TrainingConfig, mode: str, folder: Path) -> Iterator[Line]:
    """Jobs join as the lines go down, each with rows of its own; no file of the base is written."""
    held = _forget(config.torch_device)
    base = SharedBase(
        _model(config),
        together=mode == SHARED,
        quantization=config.quantization,
        checkpointing=config.checkpointing,
    )
    trainer = ConcurrentTrainer(base, padding_tokenizer())
    for count in config.counts:
        for number in range(len(trainer.jobs), count):
            trainer.join(_settings(config, number, folder), _rows(config, number))
        # Who waits is let in by a step.
        trainer.step()
        yield _tried(config, mode, count, partial(_step, trainer, list(trainer.jobs)), held)


def _step(trainer: ConcurrentTrainer, jobs: list[Job]) -> None:
    """A pass of these jobs, whoever else has joined."""
    trainer.jobs = list(jobs)
    trainer.step()


def _tried(config: TrainingConfig, how: str, count: int, step: Callable[[], object], held: int) -> Line:
    """`held`: bytes on the device that were there before."""
    _forget(config.torch_device)
    step()
    on_gpu = config.torch_device.type == "cuda"
    return Line(how, count, step, (torch.cuda.max_memory_allocated() - held) / 2**30 if on_gpu else None)


def _model(config: TrainingConfig) -> object:
    held = "nf4" if config.quantization == "nf4" else "none"
    return random_model(config.model, held, config.dtype, config.torch_device)


def _settings(config: TrainingConfig, number: int, folder: Path) -> TrainConfig:
    ranks = [int(rank) for rank in config.ranks.split(",")]
    return TrainConfig(
        base=config.model,
        output=folder / str(number),
        lora=LoraSection(rank=ranks[number % len(ranks)]),
        optim=OptimConfig(learning_rate=1e-4, batch_size=config.rows, max_steps=1_000_000),
        seed=number,
    )


def _rows(config: TrainingConfig, number: int) -> Rows:
    return Rows([_example(config, number * config.rows + row) for row in range(config.rows)], [])


def _example(config: TrainingConfig, number: int) -> Example:
    """Every token but the first is learned."""
    generator = torch.Generator().manual_seed(number)
    vocabulary = SHAPES[config.model]["vocab_size"]
    ids: list[int] = torch.randint(vocabulary, (config.length,), generator=generator).tolist()
    return Example(ids, [IGNORED, *ids[1:]])


def padding_tokenizer() -> PreTrainedTokenizerFast:
    """Only asked for what pads; rows of one length need no padding."""
    words = Tokenizer(WordLevel({"t0": 0}, unk_token="t0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="t0")


def _forget(device: torch.device) -> int:
    """Bytes that the device holds when all that can be forgotten is."""
    gc.collect()
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def device_name(device: torch.device) -> str:
    return (
        torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    )


def report(config: TrainingConfig, speeds: list[Speed]) -> None:
    """Each line beside its own mode's single job, and beside the PEFT loop of its rounds."""
    alone: dict[str, Speed] = {}
    rows = []
    for each in speeds:
        if each.adapters == 1:
            alone[each.how] = each
        rows.append(_row(each, alone))
    recomputed = "activations computed again" if config.checkpointing else "activations kept"
    print_table(
        f"{config.model} shape, {config.quantization}, ranks {config.ranks}, {config.rows} x {config.length}"
        f" tokens an adapter and step, {recomputed}, {device_name(config.torch_device)}",
        (
            "products",
            "adapters",
            "step ms",
            "tokens/s",
            "x one by one",
            "by CPU seconds",
            "x PEFT loop",
            "GiB",
        ),
        rows,
    )


def _row(each: Speed, alone: dict[str, Speed]) -> tuple[str, ...]:
    one, loop, on_gpu = alone.get(each.how), alone.get(PEFT), each.gib is not None
    return (
        each.how,
        str(each.adapters),
        f"{each.step_seconds * 1e3:.0f}",
        f"{each.tokens_per_second:,.0f}",
        "" if one in (None, each) else str(each.over(one)),
        "" if one in (None, each) or on_gpu else str(each.over(one, processor=True)),
        "" if loop in (None, each) else str(each.over(loop)),
        f"{each.gib:.1f}" if on_gpu else "",
    )
