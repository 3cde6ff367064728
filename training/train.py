"""One training run, from a config to an adapter folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase, Trainer, set_seed

from training.artifact import TrainResult, check_moved, check_servable, linear_shapes, write_adapter
from training.config import TrainConfig
from training.configfile import check_config
from training.data import read_rows, split_rows
from training.encode import Example, encode_rows
from training.errors import InvalidConfig, InvalidData
from training.model import adapt, load_base, load_tokenizer
from training.progress import Report
from training.quiet import quiet
from training.trainer import make_trainer

__all__ = ["TrainResult", "run"]


@dataclass(frozen=True, slots=True)
class _Examples:
    train: list[Example]
    held: list[Example]


def run(config: TrainConfig, report: Report | None = None) -> TrainResult:
    """Trains an adapter into `config.output`, which appears only once it is complete.

    Raises `InvalidConfig`, `InvalidData`, `InvalidBase`, `Diverged` or `UnservableAdapter`.
    """
    check_config(config)
    _check_output(config)
    with quiet(), _threads(config.threads), _workplace(config.output) as folder:
        tokenizer = load_tokenizer(config.base)
        result = _train(config, _examples(config, tokenizer), int(tokenizer.pad_token_id), folder, report)
        shutil.rmtree(config.output, ignore_errors=True)
        folder.rename(config.output)
    return result


def _train(
    config: TrainConfig, examples: _Examples, pad: int, folder: Path, report: Report | None
) -> TrainResult:
    began = time.monotonic()
    # Before the adapter is made: its A is drawn from this seed.
    set_seed(config.seed)
    base = load_base(config.base, config.dtype, config.quantization)
    linears = linear_shapes(base)
    model = adapt(base, config)
    trainer = make_trainer(model, examples.train, examples.held, config, folder, pad, report)
    outcome = trainer.train()
    model.eval()
    check_moved(model)
    result = TrainResult(
        output=config.output,
        num_steps=trainer.state.global_step,
        train_loss=float(outcome.training_loss),
        eval_loss=_eval_loss(trainer, bool(examples.held)),
        num_train_rows=len(examples.train),
        num_eval_rows=len(examples.held),
        num_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        seconds=round(time.monotonic() - began, 3),
    )
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    write_adapter(folder, model, config, result)
    check_servable(folder, linears)
    return result


def _eval_loss(trainer: Trainer, has_held: bool) -> float | None:
    """The held-out loss of the weights that are saved, which may be those of an earlier step."""
    return float(trainer.evaluate()["eval_loss"]) if has_held else None


def _examples(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> _Examples:
    data = config.data
    rows = read_rows(data.train)
    if data.eval:
        held = read_rows(data.eval)
    elif data.eval_fraction:
        if len(rows) < 2:
            raise InvalidData(data.train, ["one row cannot be split: add rows or drop data.eval_fraction"])
        rows, held = split_rows(rows, data.eval_fraction, config.seed)
    else:
        held = []
    return _Examples(
        train=encode_rows(rows, tokenizer, data, data.train),
        held=encode_rows(held, tokenizer, data, data.eval or data.train) if held else [],
    )


def _check_output(config: TrainConfig) -> None:
    output = config.output
    if output.exists() and not output.is_dir():
        raise InvalidConfig([f"output: {output} is a file; name a folder"])
    if output.is_dir() and any(output.iterdir()) and not config.overwrite:
        raise InvalidConfig([f"output: {output} is not empty; name another folder or set overwrite = true"])


@contextmanager
def _workplace(output: Path) -> Iterator[Path]:
    """A folder beside `output` to work in; a run that fails leaves nothing behind."""
    folder = output.with_name(f".{output.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Torch's CPU threads set to `count` for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
