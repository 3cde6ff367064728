"""What follows from a situation by arithmetic: bits, ranks, and what fits into the memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from training.advise.situation import Situation
from training.check.capacity import BITS_A_PARAMETER, RANKS
from training.check.model import model_facts
from training.config import LoraSection, OptimConfig, TrainConfig
from training.memory.estimate import NF4_BITS, estimate
from training.memory.rehearsal import Batch
from training.memory.skeleton import skeleton

# Of an answer's token a base cannot foretell about one bit; of a graded attempt one bit is learned in all.
BITS_A_TOKEN = 1.0
BITS_A_GRADE = 1.0
# An adapter of rank 1 beside every linear has about this many parameters for each billion of the base's.
PAIR_PARAMETERS = 330_000
# Without a base there are no shapes to rehearse with. Measured at eight billion parameters: GiB for a row of
# 1,024 tokens, with and without recomputing activations, and for what quantization leaves in float32.
ROUGH_SIZE = 8.0
ROW_GIB = {False: 10.5, True: 2.0}
REST_GIB = {"none": 0.6, "int8": 4.0, "nf4": 4.0}
WEIGHT_BYTES = {"none": 2.0, "int8": 1.0, "nf4": NF4_BITS / 8}
FULL_BYTES = 16.0
ASSUMED_RANK = 16
# Share of the device's memory that a plan may take: its context and the allocator's gaps need the rest.
ROOM = 0.9
# Rows in one forward pass, with and without recomputing activations, from the fastest to the smallest.
WAYS = ((8, False), (8, True), (1, True))


@dataclass(frozen=True, slots=True)
class Plan:
    """A way to hold the base and a batch; `peak` in GiB."""

    quantization: str
    checkpointing: bool
    batch_size: int
    peak: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Bits of the rows, the least rank that holds them if any does, the first plan that fits, and memory in
    GiB to train every weight."""

    bits: int
    rank: int
    holds: bool
    plan: Plan | None
    full_memory: float


def figures(situation: Situation) -> Figures:
    """The arithmetic. Raises `InvalidBase` for a base that cannot be read."""
    graded = situation.data in ("preferences", "ratings", "reward")
    bits = round(situation.rows * (BITS_A_GRADE if graded else BITS_A_TOKEN * situation.answer_tokens))
    parameters, pairs = _sizes(situation)
    a_rank = BITS_A_PARAMETER * pairs
    return Figures(
        bits=bits,
        rank=next((rank for rank in RANKS if rank * a_rank >= bits), RANKS[-1]),
        holds=RANKS[-1] * a_rank >= bits,
        plan=next((plan for plan in _plans(situation) if plan.peak <= ROOM * situation.memory), None),
        full_memory=parameters * FULL_BYTES / 2**30,
    )


def _sizes(situation: Situation) -> tuple[float, float]:
    """Parameters of the base, and of an adapter of rank 1 beside all its linears."""
    if situation.base is None:
        return situation.parameters * 1e9, situation.parameters * PAIR_PARAMETERS
    facts = model_facts(skeleton(TrainConfig(base=situation.base), torch.bfloat16))
    return facts.base_parameters, facts.pair_width


def _plans(situation: Situation) -> Iterator[Plan]:
    """Held as the server holds it first, then in four bits."""
    for held in dict.fromkeys((situation.held, "nf4")):
        for batch_size, checkpointing in WAYS:
            yield Plan(held, checkpointing, batch_size, _peak(situation, held, checkpointing, batch_size))


def _peak(situation: Situation, held: str, checkpointing: bool, batch_size: int) -> float:
    """GiB."""
    if situation.base is None:
        return _rough_peak(situation, held, checkpointing, batch_size)
    config = TrainConfig(
        base=situation.base,
        quantization=held,
        gradient_checkpointing=checkpointing,
        lora=LoraSection(rank=ASSUMED_RANK),
        optim=OptimConfig(batch_size=batch_size),
    )
    return (
        estimate(config, Batch(batch_size, situation.row_tokens, ragged=batch_size > 1), gpu=True).peak
        / 2**30
    )


def _rough_peak(situation: Situation, held: str, checkpointing: bool, batch_size: int) -> float:
    """GiB. Depth times width, which activations follow, grows like the size to the power of two thirds."""
    weights = situation.parameters * 1e9 * WEIGHT_BYTES[held] / 2**30
    scale = situation.parameters / ROUGH_SIZE
    row = ROW_GIB[checkpointing] * scale ** (2 / 3) * situation.row_tokens / 1024
    return float(weights + REST_GIB[held] * scale**0.5 + batch_size * row)
