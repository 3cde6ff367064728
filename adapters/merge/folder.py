"""What stands beside the weights of a merged folder, and how the folder comes to be: whole, or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.durable import sync_folder
from adapters.merge import bnb
from adapters.merge.checkpoint import Checkpoint
from adapters.merge.encodings import DTYPES, QUANTIZED
from adapters.merge.errors import MergeRefused

_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt"),
)


@contextmanager
def draft(output: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside `output` that becomes it when the block ends, and goes away when it raises."""
    if output.exists() and not output.is_dir():
        raise MergeRefused(f"{output} is a file; name a folder")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise MergeRefused(f"{output} is not empty; name another folder, or add --overwrite")
    folder = output.with_name(f".{output.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        shutil.rmtree(output, ignore_errors=True)
        os.rename(folder, output)
        sync_folder(output.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_config(folder: Path, base: Checkpoint, target: str, *, vocab_size: int, tied: bool) -> None:
    """The base's config.json with what the merge has changed."""
    config = {key: value for key, value in base.config.items() if key != "quantization_config"}
    stored = DTYPES.get(target, DTYPES["bf16"])
    config |= {
        "dtype": str(stored).removeprefix("torch."),
        "vocab_size": vocab_size,
        "tie_word_embeddings": tied,
    }
    config.pop("torch_dtype", None)
    if target in QUANTIZED:
        config["quantization_config"] = bnb.config(target)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def copy_texts(folder: Path, base: Path, adapter: Path) -> None:
    """Tokenizer, template, generation settings; an adapter's own tokenizer is the one it was trained with."""
    tokenizer = adapter if (adapter / "tokenizer.json").is_file() else base
    templates = adapter if any((adapter / name).is_file() for name in _TEMPLATES) else tokenizer
    sources = {
        "generation_config.json": base,
        **dict.fromkeys(_TOKENIZER, tokenizer),
        **dict.fromkeys(_TEMPLATES, templates),
    }
    for name, source in sources.items():
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
