"""What `lorikeet loadtest training` measures."""

from dataclasses import dataclass

import torch

from loadtests.synthetic import SHAPES
from server.engine.config import COUNT, check_options, option

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
    rounds: int = option(5, "rounds that are timed, after one that is not; medians count", bounds=COUNT)
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
