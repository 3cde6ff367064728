"""Whether a merged folder answers as the base under the adapter does, and not as the base alone.

live     the base as trained, dequantized to float32, under PEFT: nothing of the merge's own arithmetic
merged   the folder as written, dequantized where it is quantized
base     the live model with the adapter switched off
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from training.encode import IGNORED, Example
from training.evaluate import padded

_BATCH = 8
# Positions whose logits are kept for comparison; the loss counts all rows.
_MAX_POSITIONS = 1024
# Of what the adapter changes, this much must be left for the merged model not to be the base again.
_LEAST_APPLIED = 0.01


@dataclass(frozen=True)
class Seen:
    """One model's logits [positions, vocab] float32, and nats per loss token (None without such tokens)."""

    logits: Tensor
    loss: float | None


@dataclass(frozen=True)
class Verdict:
    """KL in nats, of the live model's next-token distributions against another's; means over positions.

    `recovered` = 1 - KL(live, merged) / KL(live, base). `recovered_loss` = (base - merged) / (base - live),
    None where there is no held-out loss or the adapter does not improve it.
    """

    num_positions: int
    max_logit_error: float
    mean_logit_error: float
    kl_merged: float
    kl_base: float
    kl_base_to_merged: float
    top1_merged: float
    top1_base: float
    recovered: float
    loss_live: float | None
    loss_merged: float | None
    loss_base: float | None
    recovered_loss: float | None

    def faults(self) -> list[str]:
        """What no setting makes acceptable."""
        if self.kl_base == 0:
            return ["the adapter changes nothing on these prompts: it is the base in disguise; try --eval"]
        if min(self.kl_base_to_merged / self.kl_base, self.recovered) < _LEAST_APPLIED:
            return [
                "the merged model is no nearer to base and adapter than the base alone: the adapter was not "
                f"applied, or rounding has erased it (KL {self.kl_merged:.3g} instead of {self.kl_base:.3g})"
            ]
        return []

    def losses(self, least: float) -> list[str]:
        """Where less than the share `least` of the adapter's effect is left."""
        found = []
        if self.recovered < least:
            found.append(
                f"{self.recovered:.1%} of the adapter's effect on the logits is left, less than {least:.0%}"
            )
        if self.recovered_loss is not None and self.recovered_loss < least:
            found.append(
                f"{self.recovered_loss:.1%} of its gain in held-out loss is left, less than {least:.0%}"
            )
        return found


def random_rows(vocab_size: int, seed: int, num_rows: int = 16, length: int = 48) -> list[Example]:
    """Seeded tokens without a loss: any text will do to tell two functions apart."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(vocab_size, (num_rows, length), generator=generator).tolist()
    return [Example(row, [IGNORED] * length) for row in rows]


@torch.inference_mode()
def see(model: Any, rows: Sequence[Example], pad: int) -> Seen:
    """What `model` makes of the rows; logits of the first positions only."""
    kept: list[Tensor] = []
    total, count, room = 0.0, 0, _MAX_POSITIONS
    for start in range(0, len(rows), _BATCH):
        ids, labels, mask = (part.to(model.device) for part in padded(rows[start : start + _BATCH], pad))
        logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        chosen = logits[mask.bool()][:room].cpu()
        kept.append(chosen)
        room -= chosen.shape[0]
        predicted, wanted = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        total += float(cross_entropy(predicted, wanted, ignore_index=IGNORED, reduction="sum"))
        count += int((wanted != IGNORED).sum())
    return Seen(torch.cat(kept), total / count if count else None)


def judge(live: Seen, merged: Seen, base: Seen) -> Verdict:
    """All figures of the three."""
    error = (live.logits - merged.logits).abs()
    kl_merged, kl_base = _kl(live.logits, merged.logits), _kl(live.logits, base.logits)
    return Verdict(
        num_positions=live.logits.shape[0],
        max_logit_error=float(error.max()),
        mean_logit_error=float(error.mean()),
        kl_merged=kl_merged,
        kl_base=kl_base,
        kl_base_to_merged=_kl(base.logits, merged.logits),
        top1_merged=_agreement(live.logits, merged.logits),
        top1_base=_agreement(live.logits, base.logits),
        recovered=1 - kl_merged / kl_base if kl_base else 0.0,
        loss_live=live.loss,
        loss_merged=merged.loss,
        loss_base=base.loss,
        recovered_loss=_recovered_loss(live.loss, merged.loss, base.loss),
    )


def _kl(live: Tensor, other: Tensor) -> float:
    """Mean over positions of KL(live, other); 0 exactly where they are equal."""
    p, q = live.double().log_softmax(-1), other.double().log_softmax(-1)
    return max(float((p.exp() * (p - q)).sum(-1).mean()), 0.0)


def _agreement(live: Tensor, other: Tensor) -> float:
    return float((live.argmax(-1) == other.argmax(-1)).float().mean())


def _recovered_loss(live: float | None, merged: float | None, base: float | None) -> float | None:
    if live is None or merged is None or base is None or not live < base:
        return None
    return (base - merged) / (base - live)
