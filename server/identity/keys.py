"""The keys that a server knows: one file of JSON, changed whole or not at all."""

import fcntl
import hmac
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from adapters.durable import replace_file, storage_errors
from adapters.errors import InvalidName
from adapters.names import check_tenant
from server.identity.scopes import check_scopes
from server.identity.token import Token

MAX_LIVE_SECRETS = 2
_NOBODYS = "0" * 64


class NoSuchKey(Exception):
    """The file holds no key of this id that could be changed."""


class Secret(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of a key's secrets as a hash. Times are seconds since the epoch."""

    sha256: str
    created_at: float
    expires_at: float | None = None


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom a key stands for, what it may do, and until when."""

    id: str
    tenant: str
    scopes: tuple[str, ...]
    created_at: float
    secrets: tuple[Secret, ...]
    expires_at: float | None = None
    revoked_at: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        check_tenant(self.tenant)
        check_scopes(self.scopes)

    def state(self, now: float) -> str:
        """`live`, `revoked` or `expired`."""
        if self.revoked_at is not None:
            return "revoked"
        return "live" if _is_before(now, self.expires_at) else "expired"

    def holds(self, sha256: str, now: float) -> bool:
        """Whether this is one of its secrets; takes as long whichever it is, or none."""
        live = [secret.sha256 for secret in self.secrets if _is_before(now, secret.expires_at)]
        return any([hmac.compare_digest(sha256, mine) for mine in live or [_NOBODYS]])


class KeyTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file's content."""

    keys: tuple[Key, ...] = ()


def read_table(data: bytes) -> dict[str, Key]:
    """Keys by id, oldest first; raises ValueError for what is no file of keys."""
    try:
        return {key.id: key for key in msgspec.json.decode(data, type=KeyTable).keys}
    except (msgspec.MsgspecError, InvalidName) as error:
        raise ValueError(f"this is no file of keys: {error}") from error


class KeyFile:
    """For the administrator. Every method raises StoreUnavailable when the disk fails."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock

    def read(self) -> tuple[Key, ...]:
        """Every key ever made, oldest first; raises ValueError for a damaged file."""
        with storage_errors(f"reading {self._path}"):
            try:
                return tuple(read_table(self._path.read_bytes()).values())
            except FileNotFoundError:
                return ()

    def create(
        self, tenant: str, scopes: Sequence[str], seconds: float | None = None, note: str = ""
    ) -> tuple[Key, Token]:
        """A new key, for `seconds` or for ever. Raises InvalidName or ValueError for what cannot be."""
        now, token = self._clock(), Token.mint()
        key = Key(
            id=token.key_id,
            tenant=tenant,
            scopes=tuple(sorted(set(scopes))),
            created_at=now,
            secrets=(Secret(sha256=token.sha256, created_at=now),),
            expires_at=None if seconds is None else now + seconds,
            note=note,
        )
        with self._changed() as keys:
            keys.append(key)
        return key, token

    def rotate(self, key_id: str, overlap: float) -> tuple[Key, Token]:
        """A second secret; the one before it goes on for `overlap` seconds. Raises NoSuchKey."""
        now, token = self._clock(), Token.mint(key_id)
        with self._changed() as keys:
            key = _find_live(keys, key_id, now)
            kept = [secret for secret in key.secrets if _is_before(now, secret.expires_at)]
            kept = [_ending(secret, now + overlap) for secret in kept[-(MAX_LIVE_SECRETS - 1) :]]
            new = Secret(sha256=token.sha256, created_at=now)
            key = _put(keys, msgspec.structs.replace(key, secrets=(*kept, new)))
        return key, token

    def revoke(self, key_id: str) -> Key:
        """No secret of this key is taken any more, for good. Raises NoSuchKey."""
        now = self._clock()
        with self._changed() as keys:
            return _put(keys, msgspec.structs.replace(_find_live(keys, key_id, now), revoked_at=now))

    @contextmanager
    def _changed(self) -> Iterator[list[Key]]:
        """The keys, to be changed in place; durable once the block has ended, and one change at a time."""
        with storage_errors(f"changing {self._path}"):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._path.with_name(self._path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                keys = list(self.read())
                yield keys
                table = msgspec.json.encode(KeyTable(tuple(keys)))
                replace_file(self._path, msgspec.json.format(table, indent=2) + b"\n")
            finally:
                os.close(lock)


def _find_live(keys: Sequence[Key], key_id: str, now: float) -> Key:
    key = next((key for key in keys if key.id == key_id), None)
    if key is None or key.state(now) != "live":
        raise NoSuchKey(f"There is no live key {key_id}; `lorikeet keys list` shows what there is.")
    return key


def _put(keys: list[Key], key: Key) -> Key:
    keys[[each.id for each in keys].index(key.id)] = key
    return key


def _ending(secret: Secret, at: float) -> Secret:
    return msgspec.structs.replace(secret, expires_at=min(at, secret.expires_at or at))


def _is_before(now: float, end: float | None) -> bool:
    return end is None or now < end
