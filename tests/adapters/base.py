"""The shapes of a small base, and a stored adapter as a server over it reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapters import BaseShapes, Manifest

HIDDEN, KV, INNER, RANK = 16, 8, 24, 4
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
BASE = BaseShapes({f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in SHAPES.items()})


def load(folder: Path, manifest: Manifest, **options: Any) -> Any:
    """The pairs of a stored adapter."""
    from adapters.prepared import load

    return load(folder, manifest, BASE, max_rank=64, **options).pairs()
