"""`lorikeet loadtest training`: tokens a second of adapters trained at once, and of one after another.

One after another is measured twice: this trainer with one job, and transformers with PEFT in a plain loop.
Jobs join as the table goes down, each with rows of its own; no file of the base is written.
"""

import gc
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from loadtests.figures import finite, print_table
from loadtests.floors import seconds_of
from loadtests.peft_loop import PeftLoop
from loadtests.random_model import random_model
from loadtests.synthetic import SHAPES
from server.engine.config import COUNT, check_options, option
from training.concurrent.base import SharedBase
from training.concurrent.rows import Rows
from training.concurrent.trainer import ConcurrentTrainer
from training.config import LoraSection, OptimConfig, TrainConfig
from training.encode import IGNORED, Example

PEFT, EXACT, SHARED = "PEFT loop", "exact", "shared"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    model: str = option("8b", "shape of the base", choices=tuple(SHAPES))
    quantization: str = option("nf4", "how the base is held", choices=("nf4", "int8", "none"))
    device: str = option("auto", "where to run", choices=("auto", "cpu", "cuda"))
    adapters: str = option("1,2,4,8,16,32", "numbers of adapters, from 1 upwards, with commas")
    ranks: str = option("16", "ranks, with commas, which the adapters take in turn")
    length: int = option(1024, "tokens of a row", bounds=(2, 16384))
    rows: int = option(1, "rows of an adapter in a step", bounds=COUNT)
    steps: int = option(3, "steps that are timed, after one that is not; the fastest counts", bounds=COUNT)
    modes: str = option("shared", "exact, shared or both, with a comma: how the base's products are done")
    checkpointing: bool = option(True, "whether activations are computed again to save memory")
    peft: bool = option(True, "whether transformers with PEFT is measured beside")
    json: str = option("", "file for all figures")

    def __post_init__(self) -> None:
        """Raises ValueError with every option that cannot be."""
        check_options(self)
        for name, text in (("adapters", self.adapters), ("ranks", self.ranks)):
            if not all(part.isdecimal() and int(part) for part in text.split(",")):
                raise ValueError(f"{name} {text!r} must be whole numbers from 1, with commas between them")
        if self.counts != sorted(set(self.counts)):
            raise ValueError(f"adapters {self.adapters!r} must go upwards")
        if not set(self.modes.split(",")) <= {EXACT, SHARED}:
            raise ValueError(f"modes {self.modes!r} must be {EXACT}, {SHARED} or both")

    @property
    def counts(self) -> list[int]:
        return [int(part) for part in self.adapters.split(",")]

    @property
    def torch_device(self) -> torch.device:
        found = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(found if self.device == "auto" else self.device)

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.torch_device.type == "cuda" else torch.float32


@dataclass(frozen=True)
class Speed:
    """One line. gib: the most that the device held in a step; None on a CPU."""

    how: str
    adapters: int
    step_seconds: float
    tokens_per_second: float
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
    if config.peft and config.quantization != "int8":
        yield _peft(config)
    for mode in config.modes.split(","):
        _forget(config.torch_device)
        with tempfile.TemporaryDirectory(prefix="lorikeet-training-") as folder:
            yield from _together(config, mode, Path(folder))


def _peft(config: TrainingConfig) -> Speed:
    loop = PeftLoop(_model(config), int(config.ranks.split(",")[0]), config.checkpointing)
    rows = [_example(config, number).input_ids for number in range(config.rows)]
    ids = torch.tensor(rows, device=config.torch_device)
    _forget(config.torch_device)
    seconds = seconds_of(lambda: loop.step(ids), config.torch_device, config.steps)
    return _speed(config, PEFT, 1, seconds)


def _together(config: TrainingConfig, mode: str, folder: Path) -> Iterator[Speed]:
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
        _forget(config.torch_device)
        yield _speed(config, mode, count, seconds_of(trainer.step, config.torch_device, config.steps))
    trainer.close()


def _speed(config: TrainingConfig, how: str, count: int, seconds: float) -> Speed:
    on_gpu = config.torch_device.type == "cuda"
    gib = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None
    return Speed(how, count, seconds, count * config.rows * config.length / seconds, gib)


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


def _forget(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def device_name(device: torch.device) -> str:
    return (
        torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    )


def report(config: TrainingConfig, speeds: list[Speed]) -> None:
    """Each line beside its own mode's single job, and beside PEFT's."""
    alone = {each.how: each.tokens_per_second for each in reversed(speeds) if each.adapters == 1}
    rows = [
        (
            each.how,
            str(each.adapters),
            f"{each.step_seconds * 1e3:.0f}",
            f"{each.tokens_per_second:,.0f}",
            _ratio(each, alone.get(each.how)),
            _ratio(each, alone.get(PEFT)),
            "" if each.gib is None else f"{each.gib:.1f}",
        )
        for each in speeds
    ]
    recomputed = "activations computed again" if config.checkpointing else "activations kept"
    print_table(
        f"{config.model} shape, {config.quantization}, ranks {config.ranks}, {config.rows} x {config.length}"
        f" tokens an adapter and step, {recomputed}, {device_name(config.torch_device)}",
        ("products", "adapters", "step ms", "tokens/s", "x one by one", "x PEFT loop", "GiB"),
        rows,
    )


def _ratio(speed: Speed, alone: float | None) -> str:
    return "" if alone is None else f"{speed.tokens_per_second / alone:.2f}"
