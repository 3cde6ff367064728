"""What the engine is told at start."""

import math
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

Bounds = tuple[float, float]
NO_BOUNDS: Bounds = (-math.inf, math.inf)
COUNT: Bounds = (1, math.inf)
COUNT_OR_AUTO: Bounds = (0, math.inf)


def option(default: Any, help: str, *, choices: tuple[str, ...] = (), bounds: Bounds = NO_BOUNDS) -> Any:
    """A field with its help text and what it may be; flags, checks and docs are made from them."""
    return field(default=default, metadata={"help": help, "choices": choices, "bounds": bounds})


def check_options(config: Any) -> None:
    """Raises ValueError with every field of the dataclass that is not what its option may be."""
    problems = [problem for each in fields(config) if (problem := _problem(each, getattr(config, each.name)))]
    if problems:
        raise ValueError("; ".join(problems))


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    base: str = field(metadata={"help": "folder of the base model in Hugging Face format, or a hub id"})
    quantization: str = option(
        "none", "how the base is held: none, nf4 or int8", choices=("none", "nf4", "int8")
    )
    dtype: str = option(
        "auto",
        "dtype of activations: auto, float32, bfloat16 or float16",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    kernels: str = option(
        "auto",
        "auto: our own where the GPU can run them (bfloat16, compute capability 8.0); torch: torch's alone",
        choices=("auto", "torch"),
    )
    overlap: str = option(
        "auto",
        "launch a step before the last one's tokens are here: auto (on a GPU), on or off",
        choices=("auto", "on", "off"),
    )
    double_quant: bool = option(True, "nf4: round the scales to 8 bits as QLoRA does")
    threads: int = option(0, "CPU threads of the engine; 0 takes every core but one", bounds=COUNT_OR_AUTO)

    adapter_store: Path = option(Path(".lorikeet/store"), "folder that holds the adapters")
    max_rank: int = option(256, "highest rank an adapter may have", bounds=COUNT)
    adapter_slots: int = option(64, "adapters on the device at once", bounds=COUNT)
    adapter_memory: int = option(
        0, "bytes of adapters on a GPU at once; 0: room for every slot at rank 16", bounds=COUNT_OR_AUTO
    )
    host_cache_bytes: int = option(
        4 << 30, "bytes of adapters kept in host memory; page-locked at start for a GPU", bounds=COUNT
    )
    adapter_readers: int = option(4, "adapters read from the store at once", bounds=COUNT)
    drain_after: float = option(
        0.25,
        "seconds that an adapter waits for room on the device before the least busy ones there take in"
        " nobody until they have ended",
        bounds=COUNT_OR_AUTO,
    )

    max_context: int = option(
        0, "tokens of prompt and answer together; 0 takes the model's own", bounds=COUNT_OR_AUTO
    )
    max_running: int = option(64, "sequences in one step at most", bounds=COUNT)
    step_tokens: int = option(
        0,
        "tokens in one step at most, and no more than 512 where answers go on in it; 0 takes 512 on a CPU"
        " and 4096 on a GPU",
        bounds=COUNT_OR_AUTO,
    )
    block_size: int = option(16, "tokens in one block of the KV cache", bounds=COUNT)
    cache_tokens: int = option(
        0, "tokens the KV cache holds; 0 sizes it from the memory left", bounds=COUNT_OR_AUTO
    )
    prefix_cache: bool = option(True, "reuse the keys and values of prompts seen before")
    debug_checks: bool = option(False, "check slots, digests and books at every step")

    def __post_init__(self) -> None:
        """Raises ValueError with every option that cannot be."""
        check_options(self)


def _problem(option: Field[Any], value: Any) -> str:
    choices = option.metadata.get("choices")
    least, most = option.metadata.get("bounds", NO_BOUNDS)
    if choices and value not in choices:
        return f"{option.name} {value!r} is none of {', '.join(choices)}"
    if isinstance(value, (int, float)) and not least <= value <= most:
        limits = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        return f"{option.name} {value} must be {limits}"
    return ""
