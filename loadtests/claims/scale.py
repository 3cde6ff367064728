"""How large the models are, and how long each is trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes of all measurements. rates: learning rates tried for every subject, evenly spaced, upwards.

    Every run sees `num_rows` rows of `length` tokens once, `batch` a step where batches are not compared.
    """

    vocabulary: int
    hidden: int
    layers: int
    length: int
    pretrain_steps: int
    num_rows: int
    num_held: int
    batch: int
    rates: tuple[float, ...]
    ranks: tuple[int, ...]
    batches: tuple[int, ...]
    placed_rank: int
    seeds: int
    at_once: int
    flops_hidden: int
    nf4_width: int
    adapters: str
    speed_shape: str
    speed_length: int
    merges: bool


SCALES = {
    "tiny": Scale(
        vocabulary=12,
        hidden=16,
        layers=1,
        length=16,
        pretrain_steps=20,
        num_rows=64,
        num_held=16,
        batch=8,
        rates=(1e-3, 1e-2),
        ranks=(1, 8),
        batches=(4, 16),
        placed_rank=2,
        seeds=2,
        at_once=8,
        flops_hidden=128,
        nf4_width=1024,
        adapters="1,2",
        speed_shape="tiny",
        speed_length=8,
        merges=False,
    ),
    "small": Scale(
        vocabulary=16,
        hidden=64,
        layers=2,
        length=16,
        pretrain_steps=600,
        num_rows=512,
        num_held=128,
        batch=8,
        rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        ranks=(1, 8, 64),
        batches=(8, 64),
        placed_rank=2,
        seeds=3,
        at_once=15,
        flops_hidden=512,
        nf4_width=4096,
        adapters="1,2,4,8,16,32",
        speed_shape="tiny",
        speed_length=64,
        merges=True,
    ),
    "gpu": Scale(
        vocabulary=128,
        hidden=768,
        layers=6,
        length=128,
        pretrain_steps=3000,
        num_rows=8192,
        num_held=512,
        batch=32,
        rates=(3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
        ranks=(1, 4, 16, 64),
        batches=(16, 64, 256),
        placed_rank=4,
        seeds=3,
        at_once=16,
        flops_hidden=2048,
        nf4_width=4096,
        adapters="1,2,4,8,16,32",
        speed_shape="8b",
        speed_length=1024,
        merges=True,
    ),
}
