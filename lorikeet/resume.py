"""One upload over as many streams as it takes."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from lorikeet.errors import Cancelled, DataLoss, DeadlineExceeded, LorikeetError, NotFound, Unavailable
from lorikeet.upload import LocalFile, Progress, UploadStream
from lorikeet.v1 import adapters_pb2

# Sends one request over one method and returns the answer, or raises a LorikeetError.
Caller = Callable[..., Any]

# A server that does not come back in this time is given up; a byte that arrives begins it anew.
PATIENCE = 120.0
PAUSE = 0.5


class Upload:
    """Goes on after broken streams and restarts of the server, from what the server has."""

    def __init__(
        self,
        stub: Any,
        call: Caller,
        name: str,
        files: Sequence[LocalFile],
        upload_id: str,
        progress: Progress | None,
        allow_base_mismatch: bool = False,
    ) -> None:
        self._stub = stub
        self._call = call
        self._name = name
        self._files = files
        self._upload_id = upload_id
        self._progress = progress
        self._allows = allow_base_mismatch
        self._begins_anew = True

    def run(self, timeout: float | None) -> adapters_pb2.AdapterVersion:
        """Returns the stored version. The first call must reach a server; later ones may wait for it."""
        ends_at = math.inf if timeout is None else time.monotonic() + timeout
        committed = self._committed(_left(ends_at))
        gives_up_at = time.monotonic() + PATIENCE
        while True:
            try:
                return self._send(committed, _left(ends_at))
            except DataLoss:
                if not committed or not self._begins_anew:
                    raise
                # What the server had was no longer what was sent; it has dropped it.
                self._begins_anew, committed = False, {}
            except (Cancelled, Unavailable) as error:
                had = sum(committed.values())
                committed = self._wait(error, min(gives_up_at, ends_at))
                if sum(committed.values()) > had:
                    gives_up_at = time.monotonic() + PATIENCE

    def _send(self, committed: dict[str, int], timeout: float | None) -> adapters_pb2.AdapterVersion:
        told = (self._progress, self._upload_id, committed, self._allows)
        stream = UploadStream(self._name, self._files, *told)
        try:
            stored: adapters_pb2.AdapterVersion = self._call(self._stub.Upload, stream, timeout)
        finally:
            # A folder that could not be read explains more than the server's word on what it got.
            if stream.error is not None:
                raise stream.error
        return stored

    def _wait(self, error: LorikeetError, until: float) -> dict[str, int]:
        """Until the server says what it has; raises the error if it does not in time."""
        pause = getattr(error, "retry_after", None) or PAUSE
        while time.monotonic() + pause < until:
            time.sleep(pause)
            try:
                return self._committed(_left(until))
            except (Unavailable, DeadlineExceeded):
                continue
        raise error

    def _committed(self, timeout: float | None) -> dict[str, int]:
        request = adapters_pb2.QueryUploadRequest(upload_id=self._upload_id)
        try:
            status = self._call(self._stub.QueryUpload, request, timeout)
        except NotFound:
            return {}
        return {file.file: file.committed for file in status.files}


def _left(until: float) -> float | None:
    return None if until == math.inf else max(0.0, until - time.monotonic())
