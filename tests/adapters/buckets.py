"""A bucket service in a process of its own, for the tests of what is stored in buckets."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from adapters import Quota, Store
from adapters.bucket import BucketBackend
from adapters.cache import BlobCache
from adapters.objects import Objects

START_SECONDS = 60
# One request at a time: with threads, moto now and then lets two writers replace the same state.
SERVER = """
import sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
"""
PREFIX = "some/prefix"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def serving(log: Path) -> Iterator[str]:
    """The URL of a service that keeps its buckets in memory."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SERVER, str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **KEYS})
    try:
        _wait(f"http://127.0.0.1:{port}/moto-api/", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    ends_at = time.monotonic() + START_SECONDS
    while time.monotonic() < ends_at and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"the bucket service did not start: {log.read_text()}")


class Bucket:
    """One bucket and the servers that share it."""

    _numbers = count()

    def __init__(self, endpoint: str, folder: Path) -> None:
        self.endpoint = endpoint
        self.name = f"bucket{next(self._numbers)}"
        self._folder = folder
        self._caches = count()
        self._open: list[Store] = []
        Objects(self.name, endpoint=endpoint)._s3.create_bucket(Bucket=self.name)

    def objects(self) -> Objects:
        return Objects(self.name, PREFIX, self.endpoint)

    def store(self, quota: Quota | None = None, cache_bytes: int = 1 << 30, grace: float = 3600.0) -> Store:
        """Another server's."""
        folder = self._folder / f"{self.name}-{next(self._caches)}"
        backend = BucketBackend(self.objects(), BlobCache(folder, cache_bytes), grace)
        store = Store(folder, backend, quota)
        self._open.append(store)
        return store

    def close(self) -> None:
        for store in self._open:
            store.close()


MakeBucket = Callable[[], Bucket]
