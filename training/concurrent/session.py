"""Several runs, from their configs to their adapter folders, over one base in one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from training.concurrent.base import SharedBase
from training.concurrent.offered import check_shared
from training.concurrent.trainer import ConcurrentTrainer, Outcome
from training.config import TrainConfig
from training.methods.settle import settled
from training.model import load_base, load_tokenizer
from training.progress import Report
from training.quiet import quiet


@dataclass(frozen=True, slots=True)
class Sharing:
    """How much runs share.

    exact: no bit of one depends on another; None: on a CPU. at_once: jobs that share a pass; None: all.
    """

    exact: bool | None = None
    at_once: int | None = None


def train_together(
    configs: Sequence[TrainConfig], sharing: Sharing, report: Report | None = None
) -> list[Outcome]:
    """Each run's outcome, in the order in which they end; one that fails ends alone.

    Raises `InvalidConfig`, `InvalidData` or `InvalidBase` before anything is trained.
    """
    configs = [settled(config) for config in configs]
    check_shared(configs)
    with opened(configs, sharing, report) as trainer:
        for config in configs:
            trainer.add(config)
        return trainer.run()


@contextmanager
def opened(
    configs: Sequence[TrainConfig], sharing: Sharing, report: Report | None = None
) -> Iterator[ConcurrentTrainer]:
    """A trainer over the base that `configs` have in common; what has not ended is dropped at the end."""
    first = configs[0]
    before = torch.get_num_threads()
    with quiet():
        torch.set_num_threads(first.threads or before)
        base, tokenizer = _base(configs, sharing), load_tokenizer(first.base)
        trainer = ConcurrentTrainer(base, tokenizer, report, sharing.at_once)
        try:
            yield trainer
        finally:
            trainer.close()
            torch.set_num_threads(before)


def _base(configs: Sequence[TrainConfig], sharing: Sharing) -> SharedBase:
    first = configs[0]
    exact = not torch.cuda.is_available() if sharing.exact is None else sharing.exact
    # The server's 8-bit codes are made from the plain weights.
    held = "none" if first.quantization == "int8" else first.quantization
    return SharedBase(
        load_base(first.base, first.dtype, held),
        together=not exact,
        quantization=first.quantization,
        checkpointing=any(config.gradient_checkpointing for config in configs),
    )
