"""The measured times that a plan stands on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from loadtests.figures import LoadTestError

TABLES = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class StepTable:
    """batches [n] ascending; seconds [n]: of a decode step with an adapter each; bare [n]: with none.

    prompt_token: seconds that one token of a prompt adds to the step that it is in.
    prompt_step: seconds that such a step takes besides, however few they are; 0 where it was not measured.
    load: seconds to bring one adapter from host memory.
    """

    batches: tuple[int, ...]
    seconds: tuple[float, ...]
    bare: tuple[float, ...]
    prompt_token: float
    load: float
    device: str = ""
    prompt_step: float = 0.0

    def prompt(self, tokens: float) -> float:
        """Seconds that a prompt adds, alone in its step."""
        return self.prompt_step + tokens * self.prompt_token

    def step(self, batch: float, adapters: float | None = None) -> float:
        """Between measured figures in proportion, for the adapters too; below the smallest batch as there.

        adapters: different ones among them, each its own unless told.
        """
        each, none = (float(np.interp(batch, self.batches, row)) for row in (self.seconds, self.bare))
        part = 1.0 if adapters is None else min(1.0, adapters / batch) if batch else 0.0
        return none + (each - none) * part

    @classmethod
    def find(cls, step: str, model: str, quantization: str) -> Self:
        """The file that was named, or the one of ours for this base. Raises LoadTestError."""
        ours = sorted(TABLES.glob(f"*-{model.lower()}-{quantization}.json"))
        if not step and not ours:
            raise LoadTestError(
                f"--step: there are no steps of {model} in {quantization} here: measure the device first"
                f" (lorikeet loadtest step --model {model} --quantizations {quantization} --json FILE)"
            )
        return cls.read(Path(step) if step else ours[0], quantization)

    @classmethod
    def read(cls, file: Path, quantization: str) -> Self:
        """Raises LoadTestError for a file without such steps."""
        try:
            return cls.of(json.loads(file.read_text()), quantization)
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise LoadTestError(
                f"{file} holds no steps and prefill of {quantization} with an adapter each; measure them with"
                f" lorikeet loadtest step --quantizations {quantization} --mixes none,all --json {file}"
            ) from error

    @classmethod
    def of(cls, results: dict[str, Any], quantization: str) -> Self:
        """Of what `lorikeet loadtest step` found.

        Raises KeyError, ValueError or StopIteration where it lacks something.
        """
        each = _steps(results, quantization, "all")
        bare = _steps(results, quantization, "none") or each
        batches, seconds = zip(*sorted(each.items()), strict=True)
        prompt_token, prompt_step = _prompt_times(results, quantization, dict(each))
        return cls(
            batches,
            seconds,
            tuple(float(np.interp(b, sorted(bare), [bare[n] for n in sorted(bare)])) for b in batches),
            prompt_token,
            results["adapter_copy_ms"] / 1e3,
            results.get("device", ""),
            prompt_step,
        )


def _steps(results: dict[str, Any], quantization: str, mix: str) -> dict[int, float]:
    """Batch -> seconds."""
    found = [s for s in results["steps"] if (s["quantization"], s["mix"]) == (quantization, mix)]
    return {step["batch"]: step["step_ms"] / 1e3 for step in found}


def _prompt_times(results: dict[str, Any], quantization: str, steps: dict[int, float]) -> tuple[float, float]:
    """Seconds of a token, and of a step besides, from a full step of prompts and one with a single prompt.

    A step with prompts takes what one of as many answers takes, and these two more.
    """
    found = [p for p in results["prefills"] if (p["quantization"], p["mix"]) == (quantization, "all")]
    full = next(iter(found))
    more = _seconds_more(full, steps)
    if len(found) == 1:
        return more / full["tokens"], 0.0
    one = found[1]
    token = (more - _seconds_more(one, steps)) / (full["tokens"] - one["tokens"])
    token = max(token, more / full["tokens"] / 10)
    return token, max(0.0, more - full["tokens"] * token)


def _seconds_more(prefill: dict[str, Any], steps: dict[int, float]) -> float:
    """Than a step of as many answers."""
    batches = sorted(steps)
    decode = float(np.interp(prefill["prompts"], batches, [steps[batch] for batch in batches]))
    whole = prefill["tokens"] / prefill["tokens_per_second"]
    return float(max(whole - decode, whole / 10))
