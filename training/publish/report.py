"""publish_report.json: what was measured, what was decided, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from training.publish.canary import Parity
from training.publish.standing import Standing

REPORT_FILE = "publish_report.json"


@dataclass(frozen=True, kw_only=True)
class PublishReport:
    """`reasons` are sentences, none where the adapter is live. Shares map versions to weights.

    `version` is the one that was stored, taken back unless `published`; "" where it did not come so far.
    """

    published: bool
    reasons: tuple[str, ...]
    server: str
    name: str
    alias: str
    base: Standing | None = None
    current: Standing | None = None
    candidate: Standing | None = None
    parity: Parity | None = None
    version: str = ""
    digest: str = ""
    shares_before: Mapping[int, int] = field(default_factory=dict)
    shares_after: Mapping[int, int] = field(default_factory=dict)
    # How often the alias had to be looked at, because others moved it meanwhile.
    looks: int = 1
    seconds: float = 0.0

    def write(self, folder: Path) -> Path:
        """Writes it beside the adapter; returns where."""
        path = folder / REPORT_FILE
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        return path
