"""What `lorikeet merge` is told."""

from __future__ import annotations

import math
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from training.option import option

TARGETS = ("bf16", "fp16", "fp32", "int8", "nf4", "gguf")
BLENDS = ("sum", "ties", "dare-linear", "dare-ties")
_GIB = 1024**3


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Settings of one merge; every field is a flag."""

    out: Path = option("folder that becomes the merged model", Path())
    to: str = option(f"how the weights are stored: {', '.join(TARGETS)}", "bf16", choices=TARGETS)
    trained_on: str | None = option(
        "how the base was held in training: none, nf4 (QLoRA) or int8; needed where the adapter does not say",
        None,
        choices=("none", "nf4", "int8"),
    )
    trained_dtype: str = option(
        "what the base's weights were cast to before they were quantized; auto: they were used as stored",
        "auto",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    weights: str = option("factor of each adapter, as 0.7,0.3; one adapter counts 1", "")
    blend: str = option(f"how several adapters become one: {', '.join(BLENDS)}", "sum", choices=BLENDS)
    density: float = option("ties, dare: share of each update's entries that is kept", 0.5, least=0)
    seed: int = option("decides dare's draw and the prompts that the gate asks", 0, least=0)
    eval: Path | None = option("JSONL of held-out rows for the gate; without it, random prompts", None)
    min_recovered: float = option("least share of what the adapter does that must be left", 0.9, least=0)
    max_unchanged: float = option(
        "largest share of int8 or nf4 codes that may stay the base's", 0.95, least=0
    )
    allow_lossy: bool = option("write int8 or nf4 even where less is left", False)
    gate: bool = option("compare logits with the unmerged adapter before the folder appears", True)
    shard_bytes: int = option(
        "largest file of weights; a merge holds about this much in memory", 2 * _GIB, least=1
    )
    llama_cpp: Path | None = option("gguf: folder of llama.cpp, or its convert_hf_to_gguf.py", None)
    overwrite: bool = option("replace what stands in the output folder", False)


def problems_of(config: MergeConfig, num_adapters: int) -> list[str]:
    """Sentences about what is wrong with the settings."""
    found = [_not_of(field, getattr(config, field.name)) for field in fields(config)]
    if config.out == Path():
        found.append("--out names the folder to write")
    if not 0 < config.density <= 1:
        found.append(f"--density {config.density:g} must be above 0 and at most 1")
    if config.blend != "sum" and num_adapters < 2:
        found.append(f"--blend {config.blend} needs at least two adapters")
    return [problem for problem in (*found, _weights_problem(config, num_adapters)) if problem]


def _not_of(field: Field[Any], value: object) -> str:
    flag, choices, least = (
        "--" + field.name.replace("_", "-"),
        field.metadata["choices"],
        field.metadata["least"],
    )
    if choices and value is not None and value not in choices:
        return f"{flag} {value} is none of {', '.join(choices)}"
    if least is not None and isinstance(value, int | float) and not value >= least:
        return f"{flag} must be at least {least:g}"
    return ""


def _weights_problem(config: MergeConfig, num_adapters: int) -> str:
    try:
        given = factors(config, num_adapters)
    except ValueError:
        return f"--weights {config.weights} must be numbers with commas between, as 0.7,0.3"
    if len(given) != num_adapters or not all(map(math.isfinite, given)):
        return f"--weights {config.weights} must be one finite number for each of the {num_adapters} adapters"
    return ""


def factors(config: MergeConfig, num_adapters: int) -> list[float]:
    """One factor for each adapter. Raises ValueError for what is no number."""
    if config.weights:
        return [float(text) for text in config.weights.split(",")]
    return [1.0] * num_adapters
