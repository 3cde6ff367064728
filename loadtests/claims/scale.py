"""How large the models are, and how long each is trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes of all measurements. rates: learning rates tried for every subject, evenly spaced, upwards.

    Every run sees `num_rows` rows of `length` tokens once, `batch` a step where batches are not compared.
    """

    vocabulary: int = 16
    hidden: int = 64
    layers: int = 2
    length: int = 16
    pretrain_steps: int = 600
    num_rows: int = 512
    num_held: int = 128
    batch: int = 8
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    ranks: tuple[int, ...] = (1, 8, 64)
    batches: tuple[int, ...] = (8, 64)
    placed_rank: int = 2
    seeds: int = 3
    at_once: int = 15
    flops_hidden: int = 512
    nf4_width: int = 4096
    adapters: str = "1,2,4,8,16,32"
    speed_shape: str = "tiny"
    speed_length: int = 64
    merges: bool = True


SCALES = {
    "tiny": Scale(
        vocabulary=12,
        hidden=16,
        layers=1,
        pretrain_steps=20,
        num_rows=64,
        num_held=16,
        rates=(1e-3, 1e-2),
        ranks=(1, 8),
        batches=(4, 16),
        seeds=2,
        at_once=8,
        flops_hidden=128,
        nf4_width=1024,
        adapters="1,2",
        speed_length=8,
        merges=False,
    ),
    "small": Scale(),
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
        at_once=16,
        flops_hidden=2048,
        speed_shape="8b",
        speed_length=1024,
    ),
}
