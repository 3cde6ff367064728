"""`lorikeet loadtest start`: how long an engine takes from nothing to ready, from a local folder."""

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from loadtests.figures import finite, print_table
from loadtests.synthetic import SHAPES, config_of
from server.config import ServerConfig
from server.engine.config import COUNT, check_options, option
from server.engine_process import EngineProcess
from server.kernels import bnb
from server.kernels.nf4 import BLOCK
from server.model.config import ModelConfig

NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    model: str = option("8b", "shape of the base", choices=tuple(SHAPES))
    quantization: str = option("nf4", "how the base is held", choices=("nf4", "int8", "none"))
    device: str = option("auto", "where to run", choices=("auto", "cpu", "cuda"))
    repeats: int = option(2, "starts; the first has no compiled kernels", bounds=COUNT)
    folder: str = option("", "where to write the base, 16 GB for 8b; a temporary folder unless told")
    json: str = option("", "file for all figures")

    def __post_init__(self) -> None:
        """Raises ValueError with every option that cannot be."""
        check_options(self)


@dataclass(frozen=True)
class Start:
    """Seconds from the start of the process; loading: of those, in which the engine was built."""

    to_ready: float
    loading: float


def run(config: StartConfig) -> int:
    with tempfile.TemporaryDirectory(prefix="lorikeet-start-") as temporary:
        folder = Path(config.folder or temporary) / "base"
        write_base(config.model, folder)
        with no_compiled_kernels(Path(temporary) / "cache"):
            starts = [asyncio.run(start(config, folder)) for _ in range(config.repeats)]
    kinds = ("kernels compiled", *["kernels cached"] * (len(starts) - 1))
    print_table(
        f"From a local folder to ready, {config.model} shape, {config.quantization}",
        ("start", "to ready s", "building the engine s"),
        [(kind, f"{s.to_ready:.1f}", f"{s.loading:.1f}") for kind, s in zip(kinds, starts, strict=True)],
    )
    if config.json:
        figures = [{"to_ready": s.to_ready, "loading": s.loading} for s in starts]
        Path(config.json).write_text(json.dumps(finite(figures), indent=2) + "\n")
    return 0


async def start(config: StartConfig, base: Path) -> Start:
    """As the front starts it, in a process of its own."""
    # Contexts as most servers have them; the rest of the memory is the cache's all the same.
    options = ServerConfig(
        base=str(base), quantization=config.quantization, device=config.device, max_context=8192
    )
    engine = EngineProcess(options)
    begun = time.perf_counter()
    await engine.start()
    seconds = time.perf_counter() - begun
    ready = engine.ready
    await engine.stop()
    assert ready is not None, "an engine has started and is not ready"
    return Start(seconds, ready.load_seconds)


@contextmanager
def no_compiled_kernels(folder: Path) -> Iterator[None]:
    """Processes started inside find none that were compiled before, and keep theirs in `folder`."""
    told = {"XDG_CACHE_HOME": str(folder), "TRITON_CACHE_DIR": str(folder / "triton")}
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def write_base(model: str, folder: Path, quantization: str = "none") -> None:
    """A checkpoint of random bfloat16 weights, a shard for each layer and one for the rest.

    quantization: `none`, or `nf4` for linears as bitsandbytes packs and saves them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(model)
    if quantization == "nf4":
        config.source.quantization_config = NF4
    config.source.save_pretrained(folder)
    drawn = _Drawn(config, quantization)
    weight_map = _save(folder, "rest", drawn.rest())
    for layer in range(config.num_layers):
        weight_map |= _save(folder, f"layer-{layer}", drawn.layer(layer))
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if drawn.device == "cuda":
        # What drawing took is room for whoever reads this.
        torch.cuda.empty_cache()


class _Drawn:
    """A checkpoint's tensors by name; each is drawn when it is asked for."""

    def __init__(self, config: ModelConfig, quantization: str) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._config, self._quantization = config, quantization
        self._generator = torch.Generator(self.device).manual_seed(0)

    def rest(self) -> dict[str, torch.Tensor]:
        shape = self._config.vocab_size, self._config.hidden_size
        tables = {f"{name}.weight": self._matrix(*shape) for name in ("model.embed_tokens", "lm_head")}
        return {"model.norm.weight": self._ones(), **tables}

    def layer(self, number: int) -> dict[str, torch.Tensor]:
        prefix = f"model.layers.{number}."
        tensors: dict[str, torch.Tensor] = {}
        for name, shape in self._config.linear_shapes().items():
            if name.startswith(prefix):
                tensors |= self._linear(f"{name}.weight", self._matrix(*shape))
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = self._ones()
        return tensors

    def _linear(self, name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        return packed(name, weight) if self._quantization == "nf4" else {name: weight}

    def _matrix(self, rows: int, columns: int) -> torch.Tensor:
        drawn = torch.randn(
            rows, columns, generator=self._generator, device=self.device, dtype=torch.bfloat16
        )
        return drawn.mul_(columns**-0.5)

    def _ones(self) -> torch.Tensor:
        return torch.ones(self._config.hidden_size, dtype=torch.bfloat16)


def packed(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """What bitsandbytes saves of a linear in NF4: its codes, and their scales beside them."""
    codes, state = bnb.functional().quantize_4bit(
        weight, blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
    )
    return {name: codes, **{f"{name}.{part}": held for part, held in state.as_dict(packed=True).items()}}


def _save(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    file = f"model-{name}.safetensors"
    save_file({name: tensor.cpu() for name, tensor in tensors.items()}, folder / file)
    return dict.fromkeys(tensors, file)
