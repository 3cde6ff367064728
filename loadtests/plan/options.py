"""What `lorikeet loadtest plan` is told."""

from dataclasses import dataclass
from pathlib import Path

from loadtests.floors import WEIGHT_BYTES
from loadtests.synthetic import SHAPES
from server.engine.config import COUNT, check_options, option

ABOVE_ZERO = (1e-6, float("inf"))


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    model: str = option("8b", "shape of the base", choices=tuple(SHAPES))
    quantization: str = option("nf4", "how the base is held", choices=tuple(WEIGHT_BYTES))
    memory: float = option(80.0, "the device's, in GiB", bounds=ABOVE_ZERO)
    rank: int = option(16, "of every adapter, on all linears", bounds=COUNT)
    tenants: int = option(500, "each with an adapter of its own", bounds=COUNT)
    alpha: float = option(1.0, "how unlike they ask: zipf's exponent", bounds=ABOVE_ZERO)
    rate: float = option(20.0, "requests a second of all tenants together", bounds=ABOVE_ZERO)
    prompt: float = option(256.0, "tokens of a prompt, on average", bounds=ABOVE_ZERO)
    answer: float = option(128.0, "tokens of an answer, on average", bounds=ABOVE_ZERO)
    adapter_slots: int = option(64, "as the server is told", bounds=COUNT)
    adapter_memory: int = option(0, "as the server is told, in bytes", bounds=(0, float("inf")))
    max_running: int = option(64, "as the server is told", bounds=COUNT)
    step: str = option("", "JSON that `lorikeet loadtest step` wrote on the device")
    measured: str = option("", "raw results of a run on it: says how far the estimate is off")
    json: str = option("", "file for all figures")

    def __post_init__(self) -> None:
        """Raises ValueError with every option that cannot be."""
        check_options(self)
        if not self.step:
            raise ValueError("--step: measure the device first (lorikeet loadtest step --json FILE)")
        for name in ("step", "measured"):
            if (file := getattr(self, name)) and not Path(file).is_file():
                raise ValueError(f"{name} {file}: there is no such file")
