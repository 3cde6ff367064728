"""The measured times that a plan stands on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from loadtests.figures import LoadTestError


@dataclass(frozen=True)
class StepTable:
    """batches [n] ascending, seconds [n]: of a decode step with an adapter each. prefill: tokens a second.

    load: seconds to bring one adapter from host memory.
    """

    batches: tuple[int, ...]
    seconds: tuple[float, ...]
    prefill: float
    load: float

    def step(self, batch: float) -> float:
        """Between measured batches in proportion; a batch below the smallest takes as long as that."""
        return float(np.interp(batch, self.batches, self.seconds))

    @classmethod
    def read(cls, file: Path, quantization: str) -> Self:
        """Raises LoadTestError for a file without such steps."""
        try:
            results = json.loads(file.read_text())
            steps = sorted(
                (each["batch"], each["step_ms"] / 1e3)
                for each in results["steps"]
                if (each["quantization"], each["mix"]) == (quantization, "all")
            )
            prefill = next(
                each["tokens_per_second"]
                for each in results["prefills"]
                if (each["quantization"], each["mix"]) == (quantization, "all")
            )
            batches, seconds = zip(*steps, strict=True)
            return cls(batches, seconds, prefill, results["adapter_copy_ms"] / 1e3)
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise LoadTestError(
                f"{file} holds no steps and prefill of {quantization} with an adapter each; measure them with"
                f" lorikeet loadtest step --quantizations {quantization} --mixes all --json {file}"
            ) from error
