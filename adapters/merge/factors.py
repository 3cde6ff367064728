"""Adapters from other weights: a fine-tuned model's difference to its base, as pairs of a low rank.

Truncated singular values are the nearest pair of that rank (Eckart and Young), linear by linear.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from adapters.files import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME
from adapters.lowrank import cut, numerical_rank, tail
from adapters.merge.checkpoint import Checkpoint, as_float
from adapters.merge.errors import MergeRefused
from adapters.normal import LowRank
from adapters.plan import tensor_name

_CARD = "| linear | rank | share of the update that was cut away |\n|---|---|---|\n"
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Extracted:
    """`residuals`: for each linear |difference - B A| / |difference|. `left_out` differ as well."""

    pairs: dict[str, LowRank]
    residuals: dict[str, float]
    left_out: tuple[str, ...]


def extract(
    base: Checkpoint,
    tuned: Checkpoint,
    rank: int | None,
    energy: float | None,
    report: Report = lambda done, total: None,
) -> Extracted:
    """The difference of two models of one shape as low-rank pairs. Raises MergeRefused.

    `rank` is the highest that is kept, `energy` the least share of each squared Frobenius norm.
    """
    _check_same(base, tuned)
    pairs, residuals = {}, {}
    linears = base.shapes().linears
    for number, name in enumerate(linears):
        weight = f"{name}.weight"
        difference = as_float(tuned.dense(weight)) - as_float(base.dense(weight))
        if difference.any():
            pairs[name], residuals[name] = _nearest(difference, rank, energy)
        report(number + 1, len(linears))
    if not pairs:
        raise MergeRefused("the two models have the same linears: there is nothing to extract")
    others = [
        n
        for n in base.names()
        if not base.is_linear(n) and not torch.equal(as_float(base[n]), as_float(tuned[n]))
    ]
    return Extracted(pairs, residuals, tuple(others))


def _check_same(base: Checkpoint, tuned: Checkpoint) -> None:
    ours, theirs = base.shapes(), tuned.shapes()
    if (
        set(base.names()) != set(tuned.names())
        or ours.linears != theirs.linears
        or ours.vocab_size != theirs.vocab_size
    ):
        raise MergeRefused(
            f"{tuned.folder} is not of the shape of {base.folder}; give the base that it was tuned from"
        )


def _nearest(difference: Tensor, rank: int | None, energy: float | None) -> tuple[LowRank, float]:
    u, s, v = torch.linalg.svd(difference.double(), full_matrices=False)
    kept = numerical_rank(s, len(s))
    if energy is not None:
        shares = s.square().cumsum(0) / s.square().sum()
        kept = min(kept, int((shares < energy).sum()) + 1)
    kept = min(kept, rank or kept)
    return cut(u, s, v, kept), tail(s, kept)


def write_adapter(
    folder: Path, pairs: Mapping[str, LowRank], base_name: str, residuals: Mapping[str, float]
) -> None:
    """A PEFT folder of these pairs, each of its own rank, and a card that tells what each has lost."""
    most = max(pair.rank for pair in pairs.values())
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": most,
        "lora_alpha": most,
        "rank_pattern": {name: pair.rank for name, pair in pairs.items() if pair.rank != most},
        "target_modules": sorted(pairs),
        "bias": "none",
        "inference_mode": True,
    }
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = {}
    for name, pair in pairs.items():
        # PEFT multiplies by alpha / rank, which is 1 only at the highest rank.
        tensors[tensor_name(name, "lora_A.weight")] = pair.a.float().contiguous()
        tensors[tensor_name(name, "lora_B.weight")] = (pair.b.float() * (pair.rank / most)).contiguous()
    save_file(tensors, folder / WEIGHTS_NAME, {"format": "pt"})
    lines = [f"| {name} | {pair.rank} | {residuals[name]:.3g} |" for name, pair in pairs.items()]
    (folder / CARD_NAME).write_text(_CARD + "\n".join(lines) + "\n", encoding="utf-8")
