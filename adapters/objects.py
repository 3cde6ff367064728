"""The few operations of an S3-compatible bucket that a store needs, by boto3.

Some of what a bucket answers is no failure but an outcome: Exists and Missing. All else is an OSError, as
from a disk. A 409 says that another conditional write of the key is under way, and is tried again.
"""

from __future__ import annotations

import base64
import hashlib
import random
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

CONFLICT_TRIES = 12
T = TypeVar("T")


class Exists(Exception):
    """The object is there, or is not the one that the etag names."""


class Missing(FileNotFoundError):
    """There is no such object."""


class Object(NamedTuple):
    data: bytes
    etag: str


class Listed(NamedTuple):
    """An object of a listing; the key without the store's prefix."""

    key: str
    etag: str
    modified: datetime


class Objects:
    """The objects under one prefix of one bucket. Thread-safe; every method raises OSError."""

    def __init__(self, bucket: str, prefix: str = "", endpoint: str = "") -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        # Connections for all threads of a server; a bucket that does not answer is given up in time.
        config = Config(
            max_pool_connections=32,
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 4},
        )
        # Each has a session of its own: boto3's default one is not for several threads.
        session = boto3.session.Session()
        self._s3: Any = session.client("s3", endpoint_url=endpoint or None, config=config)

    def put(self, key: str, data: bytes | BinaryIO, *, etag: str | None = None, sha256: str = "") -> str:
        """Writes an object whole and returns its etag; `sha256` (hex) is checked by the bucket.

        etag: "" creates it, any other replaces the object that has it, None does not ask. Raises Exists, or
        Missing where an object with an etag is not there at all.
        """
        given: dict[str, Any] = {}
        if etag is not None:
            given = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        if isinstance(data, bytes):
            sha256 = hashlib.sha256(data).hexdigest()
        given["ChecksumAlgorithm"] = "SHA256"
        given["ChecksumSHA256"] = base64.b64encode(bytes.fromhex(sha256)).decode()

        def attempt() -> str:
            if not isinstance(data, bytes):
                data.seek(0)
            stored = self._s3.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data, **given)
            return str(stored["ETag"])

        return _call(key, attempt)

    def get(self, key: str) -> Object:
        """Raises Missing."""

        def attempt() -> Object:
            found = self._s3.get_object(Bucket=self._bucket, Key=self._prefix + key)
            with found["Body"] as body:
                return Object(body.read(), found["ETag"])

        return _call(key, attempt)

    def download(self, key: str, path: Path) -> None:
        """Writes an object to a new file, in parallel parts where it is large. Raises Missing."""
        config = TransferConfig(max_concurrency=8)
        _call(
            key,
            lambda: self._s3.download_file(self._bucket, self._prefix + key, str(path), Config=config),
        )

    def sha256(self, key: str) -> str:
        """The checksum that the bucket holds of an object, hex; "" if it holds none."""
        found = _call(
            key,
            lambda: self._s3.head_object(Bucket=self._bucket, Key=self._prefix + key, ChecksumMode="ENABLED"),
        )
        return base64.b64decode(found.get("ChecksumSHA256", "")).hex()

    def list(self, prefix: str) -> Iterator[Listed]:
        """Every object whose key begins so."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        for page in _guarded(prefix, iter(pages)):
            for found in page.get("Contents", ()):
                key = found["Key"].removeprefix(self._prefix)
                yield Listed(key, found["ETag"], found["LastModified"])

    def delete(self, key: str) -> None:
        """Harmless where there is none."""
        _call(key, lambda: self._s3.delete_object(Bucket=self._bucket, Key=self._prefix + key))


def _guarded(key: str, pages: Iterator[Any]) -> Iterator[Any]:
    end = object()
    while (page := _call(key, lambda: next(pages, end))) is not end:
        yield page


def _call(key: str, attempt: Callable[[], T]) -> T:
    for tries in range(CONFLICT_TRIES):
        try:
            return attempt()
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status == 409 and tries + 1 < CONFLICT_TRIES:
                time.sleep(random.uniform(0, 0.01 * 2**tries))
                continue
            raise _outcome(key, code, status, error) from error
        except BotoCoreError as error:
            raise OSError(0, f"the bucket: {error}") from error
    raise AssertionError("the last try returns or raises")


def _outcome(key: str, code: str, status: int | None, error: ClientError) -> Exception:
    if status == 412:
        return Exists(key)
    if code in ("NoSuchKey", "404"):
        return Missing(2, "no such object in the bucket", key)
    return OSError(0, f"the bucket answered {code}: {error.response.get('Error', {}).get('Message', '')}")
