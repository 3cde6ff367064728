"""A base of random weights on disk, its tokenizer, and adapters of random weights."""

import json
from collections.abc import Container
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from loadtests.start import write_base
from loadtests.synthetic import ADAPTER_SPREAD, config_of

UNKNOWN = "t0"


def write_house(model: str, folder: Path, quantization: str = "none") -> Path:
    """The folder of a base that can be served."""
    base = folder / "base"
    write_base(model, base, quantization)
    write_tokenizer(config_of(model).vocab_size, base)
    return base


def write_tokenizer(vocab_size: int, folder: Path) -> None:
    """A word for each id."""
    words = WordLevel({f"t{number}": number for number in range(vocab_size)}, unk_token=UNKNOWN)
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="t1").save_pretrained(folder)


def write_adapter(
    model: str, rank: int, folder: Path, seed: int = 0, only: Container[str] | None = None
) -> Path:
    """Of all linears, or only those of these names, as PEFT would save it; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    # Drawn once and repeated: many large adapters are written in a time that can be waited for.
    drawn = (
        torch.randn(1 << 20, generator=torch.Generator().manual_seed(seed)).mul_(ADAPTER_SPREAD).bfloat16()
    )
    tensors, found = {}, set()
    for name, (rows, width) in config_of(model).linear_shapes().items():
        target = name.rpartition(".")[2]
        if only is None or target in only:
            found.add(target)
            for part, shape in (("lora_A", (rank, width)), ("lora_B", (rows, rank))):
                tensors[f"base_model.model.{name}.{part}.weight"] = _filled(shape, drawn)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = _peft_config(model, rank, sorted(found))
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    return folder


def _filled(shape: tuple[int, int], drawn: torch.Tensor) -> torch.Tensor:
    """[shape]: the drawn numbers, over and over."""
    size = shape[0] * shape[1]
    return drawn.repeat(-(-size // drawn.numel()))[:size].view(shape).clone()


def _peft_config(model: str, rank: int, targets: list[str]) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": targets,
        "bias": "none",
    }
