"""A Hugging Face folder of safetensors -> Decoder; q/k/v and gate/up become one linear each."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig

from server.kernels import int8, nf4
from server.model.config import ModelConfig, UnsupportedModel, require_folder_or_id
from server.model.decoder import Decoder, Layer
from server.model.layers import DenseWeight, Linear, Rotary, Weight
from server.model.parts import FUSED
from server.model.prequantized import is_prequantized, read_nf4

QUANTIZATIONS = ("none", "nf4", "int8")


class Checkpoint:
    """The tensors of a folder by name, read when asked for."""

    def __init__(self, folder: Path) -> None:
        self._file_of: dict[str, Any] = {}
        for name in _files(folder):
            _read_ahead(folder / name)
            file = safe_open(folder / name, framework="pt")
            self._file_of.update(dict.fromkeys(file.keys(), file))
        if not self._file_of:
            raise UnsupportedModel(f"{folder} holds no safetensors files")

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._file_of:
            raise UnsupportedModel(f"the checkpoint lacks the tensor {name}")
        return self._file_of[name].get_tensor(name)  # type: ignore[no-any-return]

    def names(self) -> list[str]:
        return sorted(self._file_of)

    def shape(self, name: str) -> list[int]:
        return list(self._file_of[name].get_slice(name).get_shape())

    def rows(self, name: str, count: int) -> Tensor:
        """Up to `count` rows of a tensor, from its first to its last, evenly apart; a vector is one row."""
        shape = self.shape(name)
        if len(shape) < 2 or shape[0] <= count:
            return self[name].reshape(-1)
        source = self._file_of[name].get_slice(name)
        places = [i * (shape[0] - 1) // (count - 1) for i in range(count)]
        return torch.cat([source[place : place + 1].reshape(-1) for place in places])


def _read_ahead(path: Path) -> None:
    """The system reads the file while its tensors are worked on one after another."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _files(folder: Path) -> list[str]:
    """The shards that the index names; without an index, whatever is there."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    single = folder / "model.safetensors"
    return [single.name] if single.exists() else sorted(path.name for path in folder.glob("*.safetensors"))


@dataclass(frozen=True)
class Loading:
    """What every part of one load needs."""

    config: ModelConfig
    checkpoint: Checkpoint
    quantization: str
    double_quant: bool
    dtype: torch.dtype
    device: torch.device
    # What a checkpoint that is quantized already left dense stays dense.
    prequantized: bool

    def dense(self, name: str) -> Tensor:
        if is_prequantized(self.checkpoint, name):
            raise UnsupportedModel(f"{name} is quantized; only the linears of the layers may be")
        return self.checkpoint[name].to(self.device, self.dtype)

    def linear(self, names: list[str], has_bias: bool) -> Linear:
        """The named linears' rows stacked into one."""
        bias = torch.cat([self.dense(f"{name}.bias") for name in names]) if has_bias else None
        return Linear(self._weight(names), bias)

    def _weight(self, names: list[str]) -> Weight:
        full = [f"{name}.weight" for name in names]
        held = {is_prequantized(self.checkpoint, n) for n in full}
        if held == {True}:
            return nf4.concatenate([read_nf4(self.checkpoint, n, self.device) for n in full])
        if held == {True, False}:
            raise UnsupportedModel(f"only some of {', '.join(names)} are quantized; all or none may be")
        parts = [self.checkpoint[n].to(self.device) for n in full]
        if self.quantization == "nf4" and not self.prequantized:
            return nf4.concatenate([nf4.quantize(p, self.double_quant) for p in parts])
        if self.quantization == "int8":
            return int8.concatenate([int8.quantize(p) for p in parts])
        return DenseWeight(torch.cat(parts).to(self.dtype))


def find_folder(base: str) -> Path:
    """The base's folder; a hub id is downloaded (configuration, tokenizer and safetensors only)."""
    require_folder_or_id(base)
    if Path(base).is_dir():
        return Path(base)
    patterns = ["*.json", "model*.safetensors", "*.txt", "*.model", "*.jinja"]
    return Path(snapshot_download(base, allow_patterns=patterns, ignore_patterns=["*/*"]))


def load_decoder(
    folder: Path,
    quantization: str,
    dtype: torch.dtype,
    device: torch.device,
    double_quant: bool = True,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Decoder:
    """Raises UnsupportedModel. `report(layers done, layers)` is called as the load goes on."""
    hf = AutoConfig.from_pretrained(folder)
    config = ModelConfig.from_hf(hf)
    _check_quantization(hf, config, quantization)
    prequantized = getattr(hf, "quantization_config", None) is not None
    loading = Loading(config, Checkpoint(folder), quantization, double_quant, dtype, device, prequantized)
    layers = []
    for index in range(config.num_layers):
        layers.append(_layer(loading, index))
        report(index + 1, config.num_layers)
    embedding = loading.dense("model.embed_tokens.weight")
    head = _head(loading, embedding)
    return Decoder(
        config=config,
        embedding=embedding,
        layers=layers,
        norm=loading.dense("model.norm.weight"),
        lm_head=Linear(DenseWeight(head)),
        rotary=Rotary.build(config, dtype, device),
    )


def _head(loading: Loading, embedding: Tensor) -> Tensor:
    """[vocab, hidden]. Tied, unless the checkpoint brings a head of its own that differs."""
    if loading.config.tied_embeddings:
        if "lm_head.weight" not in loading.checkpoint:
            return embedding
        head = loading.dense("lm_head.weight")
        return embedding if torch.equal(head, embedding) else head
    return loading.dense("lm_head.weight")


def _layer(loading: Loading, index: int) -> Layer:
    prefix = f"model.layers.{index}."
    config = loading.config

    def fused(name: str, has_bias: bool) -> Linear:
        return loading.linear([prefix + part for part in FUSED[name]], has_bias)

    def norm(name: str) -> Tensor:
        return loading.dense(f"{prefix}{name}.weight")

    return Layer(
        index=index,
        attention_norm=norm("input_layernorm"),
        qkv=fused("qkv", config.qkv_bias),
        q_norm=norm("self_attn.q_norm") if config.qk_norm else None,
        k_norm=norm("self_attn.k_norm") if config.qk_norm else None,
        o=fused("o", config.o_bias),
        mlp_norm=norm("post_attention_layernorm"),
        gate_up=fused("gate_up", config.mlp_bias),
        down=fused("down", config.mlp_bias),
    )


def _check_quantization(hf: Any, config: ModelConfig, quantization: str) -> None:
    if quantization not in QUANTIZATIONS:
        raise UnsupportedModel(f"quantization {quantization!r} is none of {', '.join(QUANTIZATIONS)}")
    held = getattr(hf, "quantization_config", None)
    if held is not None:
        _check_held(held if isinstance(held, dict) else held.to_dict(), quantization)
    elif quantization == "nf4" and any(width % nf4.BLOCK for _, width in config.linear_shapes().values()):
        raise UnsupportedModel(f"nf4 needs linears whose inputs are multiples of {nf4.BLOCK}")


def _check_held(held: dict[str, Any], quantization: str) -> None:
    kind = held.get("bnb_4bit_quant_type") if held.get("load_in_4bit") else None
    if kind != "nf4":
        raise UnsupportedModel(
            f"the checkpoint is quantized as {json.dumps(held, default=str)}; only bitsandbytes nf4 is read"
        )
    if quantization != "nf4":
        raise UnsupportedModel("the checkpoint is quantized to nf4 already; start with quantization nf4")
