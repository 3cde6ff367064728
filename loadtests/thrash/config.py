"""What the storms are told."""

from collections.abc import Container
from dataclasses import dataclass

import torch

from loadtests.synthetic import SHAPES, config_of
from server.engine.config import COUNT, check_options, option
from server.model.adapter import ALIGNMENT

# Of the zipf part's adapters, which are S-LoRA's: rank 8 of the attention.
ZIPF_RANK, ZIPF_TARGETS = 8, frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})


@dataclass(frozen=True, kw_only=True)
class ThrashConfig:
    model: str = option("8b", "shape of the base", choices=tuple(SHAPES))
    quantization: str = option("none", "how the base is held", choices=("nf4", "int8", "none"))
    device: str = option("auto", "where to run", choices=("auto", "cpu", "cuda"))
    adapters: str = option(
        "8,16,64", "numbers of adapters to ask for, with commas; the first is compared with"
    )
    room: int = option(8, "adapters that the device has memory for", bounds=COUNT)
    rank: int = option(16, "of all adapters", bounds=COUNT)
    rate: float = option(8.0, "requests a second", bounds=(0.01, 10_000))
    seconds: float = option(20.0, "in which requests come, for each number of adapters", bounds=(0.1, 86_400))
    prompt: int = option(256, "tokens of a prompt", bounds=COUNT)
    answer: int = option(64, "tokens of an answer", bounds=(2, 100_000))
    host_cache_bytes: int = option(8 << 30, "bytes of adapters in host memory", bounds=COUNT)
    all: bool = option(False, "besides, uploads beside running answers, and zipf over very many adapters")
    uploads: int = option(50, "of adapters of that rank, evenly over as many seconds again", bounds=COUNT)
    zipf_adapters: int = option(
        1000, "against 5, all requests at once, rank 8 of the attention", bounds=(5, 100_000)
    )
    zipf_requests: int = option(800, "for each of both", bounds=COUNT)
    zipf_processes: int = option(4, "of the driver, whose work must not be what is measured", bounds=COUNT)
    zipf_slots: int = option(128, "adapters on the device", bounds=COUNT)
    json: str = option("", "file for all figures")

    def __post_init__(self) -> None:
        """Raises ValueError with every option that cannot be."""
        check_options(self)
        if not all(part.strip().isdigit() and int(part) for part in self.adapters.split(",")):
            raise ValueError(f"adapters {self.adapters!r} are no numbers with commas between them")

    @property
    def counts(self) -> list[int]:
        return [int(part) for part in self.adapters.split(",")]

    @property
    def has_goals(self) -> bool:
        """Goals are those of the 8b shape in bfloat16 with room for 8; others meet none and miss none."""
        return self.model == "8b" and self.quantization == "none" and self.room == 8

    @property
    def flags(self) -> list[str]:
        """Of every server."""
        return ["--quantization", self.quantization, "--device", self.device, "--max-context", "4096"]

    def adapter_bytes(self, rank: int, targets: Container[str] | None = None) -> int:
        """Of one adapter on the device, B's rows padded. targets: None for all linears."""
        padded = -(-rank // ALIGNMENT) * ALIGNMENT
        shapes = config_of(self.model).linear_shapes()
        chosen = [shape for name, shape in shapes.items() if is_target(name, targets)]
        entries = sum(rank * width + padded * rows for rows, width in chosen)
        return entries * (2 if self._is_on_gpu else 4)

    @property
    def _is_on_gpu(self) -> bool:
        return self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())


def is_target(linear: str, targets: Container[str] | None) -> bool:
    return targets is None or linear.rpartition(".")[2] in targets
