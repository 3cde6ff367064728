"""What a part's figures depend on, as one digest: figures are kept only while it stays what it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import training
from loadtests.claims.scale import Scale

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
PACKAGES = ("adapters", "loadtests", "lorikeet", "server", "training")


def digest(scale: Scale, device: str) -> str:
    """Of sizes, device, libraries and this repository's own sources."""
    told = {
        "scale": asdict(scale),
        "device": device,
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    root = Path(training.__file__).parents[1]
    for path in _sources(root):
        found.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def _sources(root: Path) -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((root / package).rglob("*.py"))
