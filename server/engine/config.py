"""What the engine is told at start."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def option(default: Any, help: str) -> Any:
    """A field with its help text; flags and docs are made from both."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    base: str = field(metadata={"help": "folder of the base model in Hugging Face format, or a hub id"})
    quantization: str = option("none", "how the base is held: none, nf4 or int8")
    dtype: str = option("auto", "dtype of activations: auto, float32, bfloat16 or float16")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    double_quant: bool = option(True, "nf4: round the scales to 8 bits as QLoRA does")
    threads: int = option(0, "CPU threads of the engine; 0 takes every core but one")

    adapter_store: Path = option(Path(".lorikeet/store"), "folder that holds the adapters")
    max_rank: int = option(256, "highest rank an adapter may have")
    adapter_slots: int = option(64, "adapters on the device at once")
    host_cache_bytes: int = option(4 << 30, "bytes of adapters kept in host memory")

    max_context: int = option(0, "tokens of prompt and answer together; 0 takes the model's own")
    max_running: int = option(64, "sequences in one step at most")
    step_tokens: int = option(0, "tokens in one step at most; 0 takes 512 on a CPU and 4096 on a GPU")
    block_size: int = option(16, "tokens in one block of the KV cache")
    cache_tokens: int = option(0, "tokens the KV cache holds; 0 sizes it from the memory left")
    prefix_cache: bool = option(True, "reuse the keys and values of prompts seen before")
    debug_checks: bool = option(False, "check slots, digests and books at every step")
