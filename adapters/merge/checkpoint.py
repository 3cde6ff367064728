"""A base in Hugging Face format: its tensors one at a time, and what adapters are checked against."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from adapters.merge import bnb
from adapters.merge.errors import MergeRefused
from adapters.shapes import EMBEDDING, HEAD, BaseShapes

INDEX_NAME = "model.safetensors.index.json"
LAYERS = "model.layers."


class Checkpoint:
    """Tensors are read when asked for and not kept: a file is mapped for as long as its tensor lives."""

    def __init__(self, folder: Path) -> None:
        """Raises MergeRefused where the folder is no base in safetensors."""
        self.folder = folder
        self.config = _read_json(folder / "config.json")
        self._files = _shards(folder)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._file_of: dict[str, Path] = {}
        for path in self._files:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    self._shapes[name] = tuple(file.get_slice(name).get_shape())
                    self._file_of[name] = path
        _check_quantization(self.config, folder)
        self._linears = dict(self._find_linears())
        if EMBEDDING + ".weight" not in self:
            raise MergeRefused(
                f"{folder} has no {EMBEDDING}.weight; only bases of one decoder are merged into"
            )

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def __getitem__(self, name: str) -> Tensor:
        if name not in self:
            raise MergeRefused(f"the base in {self.folder} lacks the tensor {name}")
        with safe_open(self._file_of[name], framework="pt") as file:
            return file.get_tensor(name)  # type: ignore[no-any-return]

    @property
    def is_quantized(self) -> bool:
        """Whether bitsandbytes quantized its linears before they were saved."""
        return any(map(bnb.is_part, self._file_of))

    @cached_property
    def is_tied(self) -> bool:
        """Whether the head is the embedding; a checkpoint that says so may still bring a head of its own."""
        if not self.config.get("tie_word_embeddings"):
            return False
        head = f"{HEAD}.weight"
        return head not in self or torch.equal(self[head], self[f"{EMBEDDING}.weight"])

    def names(self) -> Iterator[str]:
        """Every tensor but the parts of quantized weights, file by file."""
        return (name for name in self._file_of if not bnb.is_part(name))

    def is_linear(self, name: str) -> bool:
        """Whether this is the weight of a linear of the layers, which is what gets quantized."""
        return name.endswith(".weight") and name.removesuffix(".weight") in self._linears

    def dense(self, name: str) -> Tensor:
        """A weight in the numbers that stand for it: as saved, or dequantized to float32."""
        if bnb.state_name(name) in self:
            return bnb.saved_nf4_values(
                name, {part: self[part] for part in self._file_of if part.startswith(name)}
            )
        if bnb.absmax_name(name) in self:
            return bnb.int8_values(self[name], self[bnb.absmax_name(name)])
        return self[name]

    def head(self) -> Tensor:
        """[vocab, hidden]."""
        return self[f"{EMBEDDING if self.is_tied else HEAD}.weight"]

    def shapes(self) -> BaseShapes:
        """What adapters are checked against."""
        vocab, hidden = self._shapes[f"{EMBEDDING}.weight"]
        heads = self._count("num_attention_heads")
        return BaseShapes(
            linears=self._linears,
            biases=frozenset(name for name in self._linears if f"{name}.bias" in self),
            norms={
                name.removesuffix(".weight"): shape[0]
                for name, shape in self._shapes.items()
                if len(shape) == 1 and name.endswith(".weight")
            },
            vocab_size=vocab,
            hidden_size=hidden,
            tied=self.is_tied,
            num_layers=self._count("num_hidden_layers"),
            num_kv_heads=self.config.get("num_key_value_heads") or heads,
            head_dim=self.config.get("head_dim") or hidden // heads,
        )

    def _count(self, key: str) -> int:
        if not isinstance(self.config.get(key), int):
            raise MergeRefused(
                f"config.json of {self.folder} has no {key}; only bases of one decoder are merged into"
            )
        return int(self.config[key])

    def _find_linears(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for name, shape in self._shapes.items():
            if bnb.state_name(name) in self:
                shape = bnb.saved_shape(self[bnb.state_name(name)])
            if name.startswith(LAYERS) and len(shape) > 2:
                raise MergeRefused(
                    f"{name} holds several matrices in one; bases with fused experts are not merged into"
                )
            if name.startswith(LAYERS) and name.endswith(".weight") and len(shape) == 2:
                yield name.removesuffix(".weight"), (shape[0], shape[1])


def _shards(folder: Path) -> list[Path]:
    """The files that the index names; without an index, the only one."""
    index, single = folder / INDEX_NAME, folder / "model.safetensors"
    if index.is_file():
        return [folder / name for name in sorted(set(_read_json(index)["weight_map"].values()))]
    if single.is_file():
        return [single]
    raise MergeRefused(
        f"{folder} holds no model.safetensors and no {INDEX_NAME}; save the base with safetensors"
    )


def _check_quantization(config: dict[str, Any], folder: Path) -> None:
    held = config.get("quantization_config")
    if held and not (held.get("load_in_8bit") or held.get("bnb_4bit_quant_type") == "nf4"):
        raise MergeRefused(
            f"{folder} is quantized as {held.get('quant_method')}; give the base in bfloat16, or in "
            "bitsandbytes' nf4 or int8"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MergeRefused(
            f"{path.parent} has no {path.name}; name a folder in Hugging Face format"
        ) from error
    except ValueError as error:
        raise MergeRefused(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise MergeRefused(f"{path} must hold a JSON object")
    return value


def as_float(tensor: Tensor) -> Tensor:
    """float32, in memory of its own: what comes from a mapped file must not change it."""
    return tensor.to(torch.float32, copy=True)
