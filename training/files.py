"""Names and bytes of a run's files."""

from __future__ import annotations

import hashlib
from pathlib import Path

STORY_FILE = "training.json"
METRICS_FILE = "metrics.jsonl"


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
