"""Which store an address means: a folder, or `s3://bucket/prefix` with a folder for this server's copies."""

from __future__ import annotations

from pathlib import Path

from adapters.durable import storage_errors
from adapters.errors import StoreUnavailable
from adapters.quota import Quota
from adapters.store import LocalStore, Store
from adapters.uploads import UploadLimits


def is_bucket(address: Path) -> bool:
    """A Path folds the two slashes of s3:// to one."""
    return address.parts[:1] == ("s3:",)


def open_store(
    address: Path,
    cache: Path,
    cache_bytes: int,
    endpoint: str = "",
    quota: Quota | None = None,
    limits: UploadLimits | None = None,
) -> Store:
    """Raises StoreUnavailable. `cache`, its bytes and the endpoint matter for a bucket alone."""
    if not is_bucket(address):
        return LocalStore(address, quota, limits)
    # Here, because only a store in a bucket needs boto3.
    try:
        from adapters.bucket import BucketBackend
        from adapters.cache import BlobCache
        from adapters.objects import Objects
    except ModuleNotFoundError as error:
        raise StoreUnavailable(
            "A store in a bucket needs boto3, which is not installed: pip install 'lorikeet[s3]'"
        ) from error
    if len(address.parts) < 2:
        raise StoreUnavailable("The adapter store names no bucket; write s3://bucket/prefix.")
    objects = Objects(address.parts[1], "/".join(address.parts[2:]), endpoint)
    with storage_errors(f"opening {cache}"):
        backend = BucketBackend(objects, BlobCache(cache, cache_bytes))
    try:
        return Store(cache, backend, quota, limits)
    except BaseException:
        backend.close()
        raise
