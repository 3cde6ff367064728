"""A checker of histories: was there one order of all operations that everybody could have seen?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Operation:
    """A write or a read of one alias, from call to return, with the revision and the versions it told."""

    kind: str
    began: float
    ended: float
    revision: int
    versions: tuple[int, ...]


def problems(history: Sequence[Operation]) -> list[str]:
    """Empty if and only if the history is linearizable.

    Every state has a revision, so the order can only be that of the revisions, each read behind the write
    whose revision it tells. What is left to check is that no operation contradicts it in time.
    """
    writes = {operation.revision: operation for operation in history if operation.kind == "write"}
    found = []
    if len(writes) < sum(operation.kind == "write" for operation in history):
        found.append("two writes made the same revision")
    if sorted(writes) != list(range(1, len(writes) + 1)):
        found.append("a revision is missing")
    for operation in history:
        write = writes.get(operation.revision)
        if write is None or write.versions != operation.versions:
            found.append(f"nobody wrote what {operation} tells")
        elif write.began > operation.ended:
            found.append(f"{operation} tells of a write that had not begun")
    latest = 0
    ends = sorted(history, key=lambda operation: operation.ended)
    at = 0
    for operation in sorted(history, key=lambda operation: operation.began):
        while at < len(ends) and ends[at].ended < operation.began:
            latest = max(latest, ends[at].revision)
            at += 1
        if operation.revision < latest or (operation.kind == "write" and operation.revision == latest):
            found.append(f"{operation} goes back behind revision {latest}, which was seen before it began")
    return found
