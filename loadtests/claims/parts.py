"""Measures one part after another on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from loadtests.claims.chain import make_base, make_rows
from loadtests.claims.costs import Flops, Memory, flops, memory
from loadtests.claims.figures import FLOPS_RANK
from loadtests.claims.learn import Bench, Run, Trial
from loadtests.claims.measured import Speeds
from loadtests.claims.scale import Scale
from loadtests.claims.sweeps import of_batches, of_places, of_ranks
from loadtests.concurrent import Speed, padding_tokenizer
from loadtests.concurrent import measure as measure_speed
from loadtests.concurrent_config import TrainingConfig
from loadtests.merge_routes import Route
from loadtests.merge_routes import measure as measure_routes
from training.concurrent.rows import Rows
from training.model import Model

FLOPS_RANKS = (1, FLOPS_RANK, 32, 128)


@dataclass(frozen=True)
class Parts:
    """A method for each part. folder: takes what lasts no longer than this."""

    scale: Scale
    device: torch.device
    folder: Path

    @cached_property
    def base(self) -> Model:
        return make_base(self.scale, self.device)

    @cached_property
    def rows(self) -> list[Rows]:
        return [make_rows(self.scale, seed) for seed in range(self.scale.seeds)]

    def ranks(self) -> list[Trial]:
        return self._trials(of_ranks(self.scale))

    def placement(self) -> list[Trial]:
        return self._trials(of_places(self.scale, self.base))

    def batches(self) -> list[Trial]:
        return self._trials(of_batches(self.scale))

    def operations(self) -> list[Flops]:
        return list(flops(self.scale.flops_hidden, FLOPS_RANKS))

    def memory(self) -> list[Memory]:
        return [memory(self.scale.nf4_width)]

    def merge(self) -> list[Route]:
        return measure_routes(self.folder / "routes") if self.scale.merges else []

    def speed(self) -> list[Speeds]:
        return [Speeds(self._speeds("none", self.scale.adapters), self._speeds("nf4", "1"))]

    def _trials(self, runs: list[Run]) -> list[Trial]:
        bench = Bench(self.scale, self.base, self.rows, padding_tokenizer(), self.folder)
        return list(bench.trials(runs))

    def _speeds(self, quantization: str, adapters: str) -> list[Speed]:
        """Tokens a second; the 8B has no room for activations, and steps that take too long for many."""
        large = self.scale.speed_shape == "8b"
        config = TrainingConfig(
            model=self.scale.speed_shape,
            quantization=quantization,
            device=self.device.type,
            adapters=adapters,
            length=self.scale.speed_length,
            rounds=3 if large else 10,
            checkpointing=large,
        )
        return list(measure_speed(config))
