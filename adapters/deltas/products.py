"""Products of factors, each turned into one pair by an exact identity where there is one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from adapters.deltas.context import Context, Parts, Result
from adapters.deltas.fitting import fitted, fitted_dense
from adapters.normal import LowRank

# PEFT's floor under the norms that DeLoRA divides by.
_SMALLEST_NORM = 1e-4


def vera(parts: Parts, context: Context) -> Result:
    """diag(b) B[:out] diag(d) A[:, :in]."""
    shared, (out, width) = context.shared, context.size
    a = parts["vera_lambda_d"].float()[:, None] * shared["vera_A"].float()[:, :width]
    b = parts["vera_lambda_b"].float()[:, None] * shared["vera_B"].float()[:out]
    return fitted(LowRank(a, b), context)


def drawn(key: int, rank: int, widest: tuple[int, int]) -> Parts:
    """What PEFT draws for VeRA when the projections were not saved: Kaiming uniform, A first."""
    generator, (out, width) = torch.Generator().manual_seed(key), widest
    return {
        name: torch.empty(shape).uniform_(-bound, bound, generator=generator)
        for name, shape in (("vera_A", (rank, width)), ("vera_B", (out, rank)))
        for bound in [math.sqrt(3.0) * (math.sqrt(2.0) / math.sqrt(shape[1]))]
    }


def loha(parts: Parts, context: Context) -> Result:
    """(B1 A1) * (B2 A2) = (B1 rows x B2 rows) (A1 columns x A2 columns), of rank r * r (Khatri-Rao)."""
    b1, a1, b2, a2 = (parts[f"hada_w{i}_{side}"].float() for i in "12" for side in "ab")
    if b1.shape[1] ** 2 >= min(context.size):
        delta = (b1 @ a1) * (b2 @ a2) * context.target.scale
        return fitted_dense(delta, context)
    b = (b1[:, :, None] * b2[:, None, :]).flatten(1)
    a = (a1[:, None, :] * a2[None, :, :]).flatten(0, 1)
    return fitted(LowRank(a, b * context.target.scale), context)


def lokr(parts: Parts, context: Context) -> Result:
    """(B1 A1) (x) (B2 A2) = (B1 (x) B2) (A1 (x) A2), of the product of the ranks."""
    (b1, a1), (b2, a2) = (_factors(parts, f"lokr_w{i}") for i in "12")
    if b1.shape[1] * b2.shape[1] >= min(context.size):
        delta = torch.kron(b1 @ a1, b2 @ a2) * context.target.scale
        return fitted_dense(delta, context)
    pair = LowRank(torch.kron(a1, a2), torch.kron(b1, b2) * context.target.scale)
    return fitted(pair, context)


def _factors(parts: Parts, name: str) -> tuple[Tensor, Tensor]:
    """[out, k], [k, in], where a whole matrix is itself times the identity on its narrower side."""
    if name not in parts:
        return parts[f"{name}_a"].float(), parts[f"{name}_b"].float()
    whole = parts[name].float()
    out, width = whole.shape
    return (whole, torch.eye(width)) if width <= out else (torch.eye(out), whole)


def miss(parts: Parts, context: Context) -> Result:
    """Input i meets row i mod r of the block; "bat" also multiplies the base's own blocks by it."""
    block, (out, width) = parts["miss_block"].float(), context.size
    if context.options["init_weights"] == "bat":
        return fitted_dense(_bat(block, context.weight()), context)
    if context.options["init_weights"] == "mini":
        block = block.repeat(1, out // block.shape[1])
    rank = block.shape[0]
    a = torch.eye(rank).repeat(1, -(-width // rank))[:, :width]
    return fitted(LowRank(a, block.T), context)


def _bat(block: Tensor, weight: Tensor) -> Tensor:
    """[out, in]: W_ij M_i + M_i for each r x r block of the base, M_i [r, r]."""
    (out, width), r = weight.shape, block.shape[-1]
    blocks = weight.reshape(out // r, r, width // r, r).permute(2, 0, 1, 3)
    return (blocks @ block + block).permute(1, 2, 0, 3).reshape(out, width)


def delora(parts: Parts, context: Context) -> Result:
    """B diag(lambda / (r |a_i| |b_i|)) A diag(|w|), with the base's column norms as they were saved."""
    a, b = parts["delora_A"].float(), parts["delora_B"].float()
    norms = a.norm(dim=1).clamp(min=_SMALLEST_NORM) * b.norm(dim=0).clamp(min=_SMALLEST_NORM)
    scale = parts["delora_lambda"].float() / context.target.rank / norms
    return fitted(LowRank(a * parts["delora_w_norm"].float(), b * scale), context)


def gralora(parts: Parts, context: Context) -> Result:
    """Part n of the input reaches part m of the output through columns m of A_n and rows n of B_m."""
    a, b = parts["gralora_A"].float(), parts["gralora_B"].float()
    k, _, rank = a.shape
    share, scale = rank // k, context.target.scale
    blocks = [(m, n) for m in range(k) for n in range(k)]
    right = [_placed(a[n, :, m * share : (m + 1) * share].T, n, context.size[1]) for m, n in blocks]
    left = [_placed(b[m, n * share : (n + 1) * share], m, context.size[0]) for m, n in blocks]
    if "gralora_A_general.weight" in parts:
        right.append(parts["gralora_A_general.weight"].float())
        left.append(parts["gralora_B_general.weight"].float().T)
    if k * rank >= min(context.size):
        delta = sum((b_rows.T @ a_rows for b_rows, a_rows in zip(left, right, strict=True)), torch.zeros(()))
        return fitted_dense(delta * scale, context)
    return fitted(LowRank(torch.cat(right), torch.cat(left).T * scale), context)


def _placed(rows: Tensor, part: int, width: int) -> Tensor:
    """[r, width]: the rows [r, w] in the part-th stretch of w columns, zero elsewhere."""
    placed = torch.zeros(rows.shape[0], width)
    placed[:, part * rows.shape[1] : (part + 1) * rows.shape[1]] = rows
    return placed


def vblora(parts: Parts, context: Context) -> Result:
    """Every stretch of A and B is a mixture of the bank's vectors, the likeliest k of them."""
    bank, k = context.shared["vblora_vector_bank"].float(), context.options["topk"]
    a = _mixed(parts["vblora_logits_A"].float(), bank, k)
    b = _mixed(parts["vblora_logits_B"].float(), bank, k)
    pair = LowRank(a.flatten(1), b.transpose(1, 2).flatten(0, 1))
    return fitted(pair, context)


def _mixed(logits: Tensor, bank: Tensor, k: int) -> Tensor:
    """[..., length]: no larger on the way than the logits, however many vectors are mixed."""
    top, indices = logits.topk(k, dim=-1)
    return torch.zeros_like(logits).scatter(-1, indices, top.softmax(dim=-1)) @ bank
