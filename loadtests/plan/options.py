"""What `lorikeet loadtest plan` is told."""

from dataclasses import dataclass
from pathlib import Path

from loadtests.floors import WEIGHT_BYTES
from loadtests.synthetic import SHAPES
from server.engine.config import COUNT, check_options, option

ABOVE_ZERO = (1e-6, float("inf"))


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    model: str = option("8b", "shape of the base", choices=(*SHAPES, *map(str.upper, SHAPES)))
    quantization: str = option("nf4", "how the base is held", choices=tuple(WEIGHT_BYTES))
    memory: float = option(80.0, "the device's, in GiB", bounds=ABOVE_ZERO)
    rank: int = option(16, "of every adapter, on all linears", bounds=COUNT)
    tenants: int = option(500, "each with an adapter of its own", bounds=COUNT)
    alpha: float = option(1.0, "how unlike they ask: zipf's exponent", bounds=ABOVE_ZERO)
    rate: float = option(20.0, "requests a second of all tenants together", bounds=ABOVE_ZERO)
    prompt: float = option(256.0, "tokens of a prompt, on average", bounds=ABOVE_ZERO)
    answer: float = option(128.0, "tokens of an answer, on average", bounds=ABOVE_ZERO)
    base_share: float = option(0.0, "part of the requests that go to the base", bounds=(0.0, 1.0))
    front_ms: float = option(
        2.0, "that the front and the way to it add to a first token", bounds=(0.0, float("inf"))
    )
    adapter_slots: int = option(64, "as the server is told", bounds=COUNT)
    adapter_memory: int = option(0, "as the server is told, in bytes", bounds=(0, float("inf")))
    max_running: int = option(64, "as the server is told", bounds=COUNT)
    step: str = option(
        "", "JSON that `lorikeet loadtest step` wrote on the device; unless told, what an H200 took"
    )
    measured: str = option(
        "", "raw results of runs on it, with commas between them: says how far the estimate is off"
    )
    json: str = option("", "file for all figures")

    def __post_init__(self) -> None:
        """Raises ValueError with every option that cannot be."""
        check_options(self)
        told = [("step", self.step), *(("measured", file) for file in self.measured.split(","))]
        if missing := [f"{name} {file}" for name, file in told if file and not Path(file).is_file()]:
            raise ValueError(f"{', '.join(missing)}: there is no such file")
