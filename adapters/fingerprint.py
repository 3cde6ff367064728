"""Which base this is: one sha256 that a trainer and a server both get from the checkpoint's folder.

config.json's keys that decide the function, the quantization's name, and of every tensor its name, dtype,
shape and bytes at fixed places. Training a model moves every tensor that it trains nearly everywhere, so a
few kilobytes of each tell two models apart; how a checkpoint is cut into files does not matter.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapters.files import read_at

_TAG = "lorikeet-base-v1"
_SAMPLES, _SAMPLE_BYTES = 16, 256
_KEYS = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"),
    *("num_attention_heads", "num_key_value_heads", "hidden_act", "rms_norm_eps", "tie_word_embeddings"),
    *("attention_bias", "mlp_bias", "rope_theta", "rope_scaling", "rope_parameters", "sliding_window"),
    *("use_sliding_window", "quantization_config"),
)


def base_fingerprint(folder: Path, quantization: str) -> str:
    """64 hex digits for a checkpoint in safetensors and the recipe in which it is served.

    Raises OSError or ValueError where the folder holds no readable checkpoint.
    """
    config = json.loads((folder / "config.json").read_bytes())
    digest = hashlib.sha256()
    kept = {key: config[key] for key in _KEYS if key in config}
    _feed(digest, [_TAG, quantization, json.dumps(kept, sort_keys=True)])
    tensors = dict(_tensors(folder))
    if not tensors:
        raise ValueError(f"{folder} holds no tensors in safetensors files")
    for name in sorted(tensors):
        info, sampled = tensors[name]
        _feed(digest, [name, info, hashlib.sha256(sampled).hexdigest()])
    return digest.hexdigest()


def tokenizer_hashes(folder: Path) -> dict[str, str]:
    """sha256 of tokenizer.json's bytes and of the chat template's text, by the names of a manifest's fields.

    What the folder lacks has none. Raises OSError or ValueError for files that cannot be read.
    """
    contents = {
        "tokenizer_sha256": _read(folder / "tokenizer.json"),
        "chat_template_sha256": _template(folder),
    }
    return {name: hashlib.sha256(raw).hexdigest() for name, raw in contents.items() if raw}


def _template(folder: Path) -> bytes:
    """Of the two places that transformers keeps it in, the one that it looks at first."""
    if template := _read(folder / "chat_template.jinja"):
        return template
    written = json.loads(_read(folder / "tokenizer_config.json") or b"{}").get("chat_template")
    return written.encode() if isinstance(written, str) else b""


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _feed(digest: Any, words: list[str]) -> None:
    # Lengths first, so that no two lists of words read the same.
    for word in words:
        raw = word.encode()
        digest.update(len(raw).to_bytes(8, "little") + raw)


def _tensors(folder: Path) -> Iterator[tuple[str, tuple[str, bytes]]]:
    for path in sorted(folder.glob("*.safetensors")):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            length = int.from_bytes(read_at(fd, 0, 8), "little")
            header = json.loads(read_at(fd, 8, length))
            header.pop("__metadata__", None)
            for name, entry in header.items():
                start, end = (8 + length + offset for offset in entry["data_offsets"])
                yield name, (f"{entry['dtype']} {entry['shape']}", _sample(fd, start, end))
        finally:
            os.close(fd)


def _sample(fd: int, start: int, end: int) -> bytes:
    """The whole of a small tensor, evenly spaced pieces of a large one."""
    if end - start <= _SAMPLES * _SAMPLE_BYTES:
        return read_at(fd, start, end - start)
    step = (end - start - _SAMPLE_BYTES) // (_SAMPLES - 1)
    return b"".join(read_at(fd, start + i * step, _SAMPLE_BYTES) for i in range(_SAMPLES))
