"""The adapters of a server, as `client.adapters`."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration

from lorikeet.lifecycle import AdapterCard, AdapterStatus, Alias
from lorikeet.resume import Caller, Upload
from lorikeet.types import AdapterVersion, versions_from_proto
from lorikeet.upload import Progress, default_id, read_folder
from lorikeet.v1 import adapters_pb2

Tier = str
_TIERS = {"host": adapters_pb2.TIER_HOST, "device": adapters_pb2.TIER_DEVICE}

# Begins a stream of answers, whose errors are LorikeetErrors.
Stream = Callable[..., Iterator[Any]]


class Adapters:
    """Upload, look up, watch, place and delete adapters. Ids are `name`, `name@3` or `name@alias`."""

    def __init__(self, stub: Any, call: Caller, stream: Stream) -> None:
        self._stub = stub
        self._call = call
        self._stream = stream

    def upload(
        self,
        folder: str | os.PathLike[str],
        name: str,
        progress: Progress | None = None,
        *,
        upload_id: str = "",
        allow_base_mismatch: bool = False,
        timeout: float | None = None,
    ) -> AdapterVersion:
        """Stores the adapter in a PEFT folder as the next version of `name`.

        Goes on by itself where the stream breaks or the server restarts; called again with the same files, by
        another process too, it goes on where the last call stopped. `progress` is called with the bytes that
        are there and the bytes in all, from another thread. Uploading the newest version's bytes again
        returns it. An adapter whose trainer had another base is refused unless `allow_base_mismatch`.
        """
        files = read_folder(Path(folder))
        known = upload_id or default_id(name, files)
        upload = Upload(self._stub, self._call, name, files, known, progress, allow_base_mismatch)
        return AdapterVersion.from_proto(upload.run(timeout))

    def get(self, adapter_id: str, *, timeout: float | None = None) -> AdapterVersion:
        """One version; an alias must point at one alone."""
        request = adapters_pb2.GetAdapterRequest(adapter_id=adapter_id)
        return AdapterVersion.from_proto(self._call(self._stub.Get, request, timeout))

    def card(self, adapter_id: str, *, timeout: float | None = None) -> AdapterCard:
        """What the trainer said of a version."""
        request = adapters_pb2.GetAdapterRequest(adapter_id=adapter_id)
        return AdapterCard.from_proto(self._call(self._stub.GetCard, request, timeout))

    def list(self, *, page_size: int = 100, timeout: float | None = None) -> Iterator[AdapterVersion]:
        """Every version by name, oldest first; pages are fetched as the iterator gets to them."""
        request = adapters_pb2.ListAdaptersRequest(page_size=page_size)
        while True:
            page = self._call(self._stub.List, request, timeout)
            yield from versions_from_proto(page.versions)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def watch(
        self, adapter_id: str = "", *, upload_id: str = "", timeout: float | None = None
    ) -> Iterator[AdapterStatus]:
        """The state of a version, or of an upload that becomes one, now and whenever it changes."""
        request = adapters_pb2.WatchAdapterRequest()
        if upload_id:
            request.upload_id = upload_id
        else:
            request.adapter_id = adapter_id
        return map(AdapterStatus.from_proto, self._stream(self._stub.Watch, request, timeout))

    def delete(
        self, adapter_id: str, *, force: bool = False, wait: float = 0.0, timeout: float | None = None
    ) -> tuple[AdapterVersion, ...]:
        """Deletes `name@3`, or every version of `name`, and returns what was deleted.

        Requests that run on it go on, and up to `wait` seconds pass until they have ended. `force` ends them
        and takes the version away from aliases, which otherwise forbid it.
        """
        request = adapters_pb2.DeleteAdapterRequest(adapter_id=adapter_id, force=force)
        if wait > 0:
            request.wait.CopyFrom(Duration(seconds=int(wait), nanos=int(wait % 1 * 1e9)))
        return versions_from_proto(self._call(self._stub.Delete, request, timeout).versions)

    def warm(self, adapter_id: str, tier: Tier = "device", *, timeout: float | None = None) -> AdapterVersion:
        """Brings a version to `host` memory or the `device` and returns once it is there."""
        request = adapters_pb2.WarmAdapterRequest(adapter_id=adapter_id, tier=_tier(tier))
        return AdapterVersion.from_proto(self._call(self._stub.Warm, request, timeout))

    def pin(self, adapter_id: str, tier: Tier = "device", *, timeout: float | None = None) -> AdapterVersion:
        """Keeps a version in `host` memory or on the `device` until it is unpinned or deleted."""
        request = adapters_pb2.PinAdapterRequest(adapter_id=adapter_id, tier=_tier(tier))
        return AdapterVersion.from_proto(self._call(self._stub.Pin, request, timeout))

    def unpin(self, adapter_id: str, *, timeout: float | None = None) -> AdapterVersion:
        """Lets a version be put out again."""
        request = adapters_pb2.UnpinAdapterRequest(adapter_id=adapter_id)
        return AdapterVersion.from_proto(self._call(self._stub.Unpin, request, timeout))

    def set_alias(
        self,
        name: str,
        alias: str,
        shares: Mapping[int, int],
        *,
        etag: str | None = None,
        timeout: float | None = None,
    ) -> Alias:
        """Points `name@alias` at versions, as {version: weight}.

        With the etag of a state that was read before, raises Aborted if the alias changed since; "" wants
        that there is none yet.
        """
        messages = [adapters_pb2.AliasShare(version=v, weight=w) for v, w in shares.items()]
        request = adapters_pb2.SetAliasRequest(name=name, alias=alias, shares=messages, etag=etag)
        return Alias.from_proto(self._call(self._stub.SetAlias, request, timeout))

    def get_alias(self, name: str, alias: str, *, timeout: float | None = None) -> Alias:
        """What `name@alias` points at, and every state before."""
        request = adapters_pb2.GetAliasRequest(name=name, alias=alias)
        return Alias.from_proto(self._call(self._stub.GetAlias, request, timeout))

    def aliases(self, name: str, *, timeout: float | None = None) -> tuple[Alias, ...]:
        """Every alias of a name."""
        request = adapters_pb2.ListAliasesRequest(name=name)
        return tuple(map(Alias.from_proto, self._call(self._stub.ListAliases, request, timeout).aliases))

    def delete_alias(
        self, name: str, alias: str, *, etag: str | None = None, timeout: float | None = None
    ) -> None:
        """Takes `name@alias` away; the versions stay."""
        request = adapters_pb2.DeleteAliasRequest(name=name, alias=alias, etag=etag)
        self._call(self._stub.DeleteAlias, request, timeout)

    def rollback_alias(
        self, name: str, alias: str, *, etag: str | None = None, timeout: float | None = None
    ) -> Alias:
        """Brings the previous state of `name@alias` back; once more goes one further back."""
        request = adapters_pb2.RollbackAliasRequest(name=name, alias=alias, etag=etag)
        return Alias.from_proto(self._call(self._stub.RollbackAlias, request, timeout))


def _tier(tier: Tier) -> Any:
    if tier not in _TIERS:
        raise ValueError(f"{tier!r} is no tier; use {' or '.join(_TIERS)}.")
    return _TIERS[tier]
