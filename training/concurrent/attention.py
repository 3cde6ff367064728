"""Attention of a pass: each job's rows among themselves, whatever the others' lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from training.concurrent.batch import Segment

NAME = "lorikeet_jobs"


def register() -> None:
    """Makes `NAME` known to transformers; its models then call `attend`."""
    AttentionInterface.register(NAME, attend)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Sequence[Segment],
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query [1, heads, tokens, dim], key and value [1, kv_heads, tokens, dim] -> [1, tokens, heads, dim].

    Rows are padded on the right, where no earlier token looks: causality is all the mask there is.
    """
    sizes = [segment.end - segment.start for segment in segments]
    parts = []
    for segment, q, k, v in zip(segments, *(x[0].split(sizes, 1) for x in (query, key, value)), strict=True):
        band = _band(segment.length, sliding_window, q.device)
        out = scaled_dot_product_attention(
            _rows(q, segment),
            _rows(k, segment),
            _rows(v, segment),
            attn_mask=band,
            is_causal=band is None,
            scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )  # [rows, heads, length, dim]
        parts.append(out.transpose(1, 2).reshape(segment.end - segment.start, *out.shape[1::2]))
    return torch.cat(parts).unsqueeze(0), None


def _rows(x: Tensor, segment: Segment) -> Tensor:
    """[heads, tokens, dim] -> [rows, heads, length, dim]."""
    return x.view(len(x), segment.num_rows, segment.length, -1).transpose(0, 1)


def _band(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """bool [length, length], where a query may look; None where that is every earlier token."""
    if window is None or length <= window:
        return None
    place = torch.arange(length, device=device)
    back = place[:, None] - place[None, :]
    return (back >= 0) & (back < window)
