"""Version records on disk: which adapter a version is. Created once, never changed, renamed when deleted.

names/<sha256 of tenant/name>/3.json      version 3 is live
names/<sha256 of tenant/name>/2.deleted   version 2 was; its number is never used again
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from adapters.durable import make_folder, sync_folder, write_file
from adapters.errors import InvalidName
from adapters.names import check_name, check_tenant

_FILE = re.compile(r"([1-9][0-9]*)\.(json|deleted)\Z", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One live version; `created_at` in seconds since the epoch."""

    tenant: str
    name: str
    version: int
    digest: str
    created_at: float


@dataclass(frozen=True)
class Found:
    """One record file of a scan: its folder's key, its number, and the record if it is live and sound."""

    key: str
    version: int
    record: Record | None


def record_key(tenant: str, name: str) -> str:
    """The folder's name; '/' is in neither grammar, so no two pairs share a key."""
    return hashlib.sha256(f"{tenant}/{name}".encode()).hexdigest()


def publish(names: Path, record: Record) -> None:
    """Writes a record durably, or leaves nothing; raises OSError, also when the version exists."""
    folder = names / record_key(record.tenant, record.name)
    make_folder(folder)
    final, draft = folder / f"{record.version}.json", folder / f"{uuid.uuid4().hex}.tmp"
    linked = False
    try:
        write_file(draft, json.dumps(asdict(record)).encode())
        # A link fails where a rename would overwrite, so two writers can never share a version.
        os.link(draft, final)
        linked = True
        os.unlink(draft)
        sync_folder(folder)
    except BaseException:
        for path in [draft, final] if linked else [draft]:
            with suppress(OSError):
                os.unlink(path)
        raise


def retire(names: Path, record: Record) -> None:
    """Renames a record to its tombstone; durable after `sync_folder`. Raises OSError."""
    folder = names / record_key(record.tenant, record.name)
    os.rename(folder / f"{record.version}.json", folder / f"{record.version}.deleted")


def scan(names: Path) -> Iterator[Found]:
    """Reads every record and removes drafts that a killed run left behind."""
    for key in filter(_DIGEST.match, sorted(os.listdir(names))):
        for entry in sorted(os.listdir(names / key)):
            path = names / key / entry
            if entry.endswith(".tmp"):
                os.unlink(path)
            elif (match := _FILE.match(entry)) is not None:
                version, live = int(match[1]), match[2] == "json"
                yield Found(key, version, _read(path, key, version) if live else None)


def _read(path: Path, key: str, version: int) -> Record | None:
    try:
        record = Record(**json.loads(path.read_bytes()))
        check_tenant(record.tenant)
        check_name(record.name)
        if (
            record_key(record.tenant, record.name) == key
            and record.version == version
            and _DIGEST.match(record.digest)
        ):
            return record
    except (ValueError, TypeError, InvalidName):
        pass
    _log.error("the version record %s is damaged and not served", path)
    return None
