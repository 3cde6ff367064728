"""What is counted and not trained: operations, bytes of NF4, parameters of an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from training.artifact import linear_shapes
from training.concurrent.base import recompute_layers
from training.model import Model

# Llama 2, by the names of its sizes: hidden, intermediate, layers, key heads of 128.
LLAMAS = {"7B": (4096, 11008, 32, 32), "13B": (5120, 13824, 40, 40), "70B": (8192, 28672, 80, 8)}
VOCABULARY, HEAD = 32_000, 128


@dataclass(frozen=True, slots=True)
class Flops:
    """Of one step. rank: 0 for full fine-tuning; recomputed: with gradient checkpointing."""

    rank: int
    recomputed: bool
    count: int


@dataclass(frozen=True, slots=True)
class Bits:
    """Of a weight in NF4, its scales rounded to 8 bits (doubled) or in float32 (single)."""

    doubled: float
    single: float


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of a Llama 2: in float32, and with its linears in NF4 and the rest in 16 bits."""

    size: str
    float32: float
    nf4: float


@dataclass(frozen=True, slots=True)
class Memory:
    """trained_share: of a 7B's parameters, those of an adapter of rank 16 on all linears."""

    bits: Bits
    held: list[Held]
    trained_share: float


def flops(hidden: int, ranks: tuple[int, ...]) -> Iterator[Flops]:
    """Forward and backward over 2 rows of 64 tokens, by torch's own counter."""
    for rank in (0, *ranks):
        for recomputed in (False, True):
            yield Flops(rank, recomputed, _flops(_model(hidden, rank, recomputed)))


def _model(hidden: int, rank: int, recomputed: bool) -> Any:
    shape = {"vocab_size": 256, "hidden_size": hidden, "intermediate_size": 11 * hidden // 4}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**shape, **heads, max_position_embeddings=64))
    if recomputed:
        recompute_layers(model)
    if not rank:
        return model
    if recomputed:
        model.enable_input_require_grads()
    targets = sorted({name.rpartition(".")[2] for name in linear_shapes(model)})
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=rank, target_modules=targets))


def _flops(model: Any) -> int:
    ids = torch.zeros(2, 64, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return int(counter.get_total_flops())


def nf4_bits(width: int) -> Bits:
    """By the bytes of a real linear."""
    return Bits(_bits(width, double=True), _bits(width, double=False))


def _bits(width: int, double: bool) -> float:
    """Bits a weight of a linear [width, width] that bitsandbytes has quantized, all tables counted."""
    linear = Linear4bit(width, width, bias=False, quant_type="nf4", compress_statistics=double).to("cpu")
    state, weight = linear.weight.quant_state, linear.weight
    parts = [weight, state.absmax]
    if double:
        parts += [state.state2.absmax, state.offset]
    num_bytes: int = sum(part.numel() * part.element_size() for part in parts)
    return 8 * num_bytes / width**2


def memory(width: int) -> Memory:
    """Bits by a real linear [width, width], bytes by these and the shapes of the models."""
    bits = nf4_bits(width)
    return Memory(bits, [_held(size, bits.doubled) for size in LLAMAS], trained_share(rank=16))


def _held(size: str, bits: float) -> Held:
    model = llama(size)
    whole = sum(weight.numel() for weight in model.parameters())
    linears = sum(rows * width for rows, width in linear_shapes(model).values())
    return Held(size, 4.0 * whole, linears * bits / 8 + 2 * (whole - linears))


def llama(size: str) -> Model:
    """A Llama 2 without bytes."""
    hidden, intermediate, layers, key_heads = LLAMAS[size]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=hidden // HEAD,
        num_key_value_heads=key_heads,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def trained_share(rank: int) -> float:
    """Parameters of an adapter on all linears of the 7B, as a share of the 7B's."""
    model: nn.Module = llama("7B")
    pairs = sum(rank * (rows + width) for rows, width in linear_shapes(model).values())
    return pairs / sum(weight.numel() for weight in model.parameters())
