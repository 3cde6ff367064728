"""merge_report.json: every figure of a merge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from adapters.merge.encodings import Survival, mean_recovered, mean_unchanged
from training.merge_gate import Verdict

REPORT_NAME = "merge_report.json"
_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "safetensors")


@dataclass(frozen=True)
class Member:
    """One adapter that went in."""

    folder: str
    digest: str
    kind: str
    factor: float


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """`faults` and `losses` are sentences; a merge without any, or whose losses were allowed, has passed.

    `linears` tells of each changed linear what storing it has left of the change.
    """

    base: str
    adapters: tuple[Member, ...]
    blend: str
    trained_on: str
    target: str
    untied: bool
    vocab_size: int
    linears: tuple[Survival, ...]
    gate: Verdict | None
    faults: tuple[str, ...]
    losses: tuple[str, ...]
    passed: bool
    seconds: float

    def to_json(self, files: dict[str, str]) -> str:
        """One JSON object; `files` are the sha256 of the folder's files by name."""
        summary: dict[str, Any] = {
            "changed_linears": len(self.linears),
            "mean_recovered": mean_recovered(self.linears),
            "mean_unchanged_codes": mean_unchanged(self.linears),
        }
        versions = {name: version(name) for name in _LIBRARIES}
        return json.dumps({**asdict(self), **summary, "files": files, "versions": versions}, indent=2) + "\n"


def storage_losses(linears: Sequence[Survival], least: float, most_unchanged: float) -> list[str]:
    """What storing the weights has lost, before any prompt is asked."""
    found = []
    unchanged, recovered = mean_unchanged(linears), mean_recovered(linears)
    if unchanged is not None and unchanged > most_unchanged:
        found.append(
            f"{unchanged:.1%} of the codes of the changed linears are the base's own, more than "
            f"{most_unchanged:.0%}: the grid is coarser than the adapter"
        )
    if recovered < least:
        found.append(f"{recovered:.1%} of the change of the weights is left, less than {least:.0%}")
    return found
