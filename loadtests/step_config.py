"""What `lorikeet loadtest step` is told."""

from dataclasses import dataclass
from pathlib import Path

import torch

from loadtests.synthetic import MAX_CONTEXT, SHAPES
from server.engine.config import COUNT, COUNT_OR_AUTO, check_options, option

# off: no adapter memory at all; none: room for adapters, and nobody uses one.
MIXES = ("off", "none", "one", "all")
QUANTIZATIONS = ("nf4", "int8", "none")
# Prompts of a prefill step.
MOST_PROMPTS = 8


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    model: str = option("8b", "shape of the base", choices=tuple(SHAPES))
    batches: str = option("1,8,32,64", "requests in a step")
    quantizations: str = option(",".join(QUANTIZATIONS), "how the base is held")
    mixes: str = option(
        ",".join(MIXES), "adapters in a step: off (no room for any), none, one for all requests, or one each"
    )
    rank: int = option(16, "of every adapter", bounds=COUNT)
    prompt: int = option(128, "tokens of a prompt", bounds=COUNT)
    short: int = option(16, "new tokens of the short answers", bounds=COUNT)
    long: int = option(144, "new tokens of the long answers", bounds=COUNT)
    repeats: int = option(3, "measurements of each figure; the median counts", bounds=COUNT)
    prefill: int = option(8192, "tokens in a prefill step; 0 leaves it out", bounds=COUNT_OR_AUTO)
    device: str = option("auto", "where to run", choices=("auto", "cpu", "cuda"))
    profile: bool = option(True, "list the kernels of one step (on a GPU)")
    check: bool = option(True, "compare answers with plain torch's over the same weights")
    json: str = option("", "file for all figures")

    def __post_init__(self) -> None:
        """Raises ValueError with every option that cannot be."""
        check_options(self)
        problems = []
        if not all(batch.isdecimal() and int(batch) for batch in self.batches.split(",")):
            problems.append(
                f"batches {self.batches!r} must be whole numbers from 1, with commas between them"
            )
        for name, choices in (("quantizations", QUANTIZATIONS), ("mixes", MIXES)):
            value = getattr(self, name)
            if not set(value.split(",")) <= set(choices):
                problems.append(f"{name} {value!r} may name {', '.join(choices)}, with commas between them")
        if self.short >= self.long or self.prompt + self.long > MAX_CONTEXT:
            problems.append(f"short must be less than long, prompt and long together at most {MAX_CONTEXT}")
        if 0 < self.prefill < MOST_PROMPTS:
            problems.append(f"prefill {self.prefill} must be 0 or at least {MOST_PROMPTS}")
        if self.device == "cuda" and not torch.cuda.is_available():
            problems.append("device cuda: there is no CUDA device")
        if self.json and not Path(self.json).parent.is_dir():
            problems.append(f"json {self.json}: there is no such folder")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def batch_sizes(self) -> list[int]:
        return [int(batch) for batch in self.batches.split(",")]

    @property
    def mix_names(self) -> list[str]:
        return self.mixes.split(",")

    @property
    def torch_device(self) -> torch.device:
        found = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(found if self.device == "auto" else self.device)
