"""Which base an adapter was prepared for: its checkpoint and how the server holds it, in one digest."""

import hashlib
import json
from pathlib import Path

import torch

from server.model.loader import Checkpoint

# Rows of a matrix that are looked at. Training moves every row, and whole checkpoints take minutes to read.
NUM_ROWS = 4


def fingerprint(folder: Path, quantization: str, double_quant: bool) -> str:
    """Hex sha256 of the checkpoint's names, shapes and a few rows of each tensor, and of the recipe.

    Raises UnsupportedModel for a folder without weights. The same on every device.
    """
    checkpoint = Checkpoint(folder)
    recipe = {"quantization": quantization, "double_quant": double_quant and quantization == "nf4"}
    digest = hashlib.sha256(json.dumps(["lorikeet-base-v1", recipe], sort_keys=True).encode())
    for name in checkpoint.names():
        rows = checkpoint.rows(name, NUM_ROWS)
        digest.update(json.dumps([name, str(rows.dtype), checkpoint.shape(name)]).encode())
        digest.update(rows.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
