"""The adapters of a server, as `client.adapters`."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lorikeet.types import AdapterVersion, versions_from_proto
from lorikeet.upload import Progress, UploadStream, read_folder
from lorikeet.v1 import adapters_pb2

# Sends one request over one method and returns the answer, or raises a LorikeetError.
Caller = Callable[..., Any]


class Adapters:
    """Upload, look up and delete adapters. Names go by `name` or `name@3`."""

    def __init__(self, stub: Any, call: Caller) -> None:
        self._stub = stub
        self._call = call

    def upload(
        self,
        folder: str | os.PathLike[str],
        name: str,
        progress: Progress | None = None,
        *,
        timeout: float | None = None,
    ) -> AdapterVersion:
        """Stores the adapter in a PEFT folder as the next version of `name`.

        `progress` is called with the bytes sent and the bytes in all, from another thread. Uploading the
        newest version's bytes again returns that version.
        """
        stream = UploadStream(name, read_folder(Path(folder)), progress)
        try:
            stored = self._call(self._stub.Upload, stream, timeout)
        finally:
            # A folder that could not be read explains more than the server's word on what it got.
            if stream.error is not None:
                raise stream.error
        return AdapterVersion.from_proto(stored)

    def get(self, adapter_id: str, *, timeout: float | None = None) -> AdapterVersion:
        """One version: `name@3`, or the newest of `name`."""
        request = adapters_pb2.GetAdapterRequest(adapter_id=adapter_id)
        return AdapterVersion.from_proto(self._call(self._stub.Get, request, timeout))

    def list(self, *, page_size: int = 100, timeout: float | None = None) -> Iterator[AdapterVersion]:
        """Every version by name, oldest first; pages are fetched as the iterator gets to them."""
        request = adapters_pb2.ListAdaptersRequest(page_size=page_size)
        while True:
            page = self._call(self._stub.List, request, timeout)
            yield from versions_from_proto(page.versions)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def delete(self, adapter_id: str, *, timeout: float | None = None) -> tuple[AdapterVersion, ...]:
        """Deletes `name@3`, or every version of `name`, and returns what was deleted."""
        request = adapters_pb2.DeleteAdapterRequest(adapter_id=adapter_id)
        return versions_from_proto(self._call(self._stub.Delete, request, timeout).versions)
