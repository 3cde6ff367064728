"""The fake server as a process, for as long as a `with` block lasts."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtests.fake.script import Script
from loadtests.figures import LoadTestError


@dataclass
class Fake:
    """address: host and port. book: what happened when, by request, once the block has ended."""

    address: str
    pid: int
    book: dict[int, dict[str, Any]] = field(default_factory=dict)


@contextmanager
def faking(script: Script, protocol: str = "grpc") -> Iterator[Fake]:
    """protocol: `grpc`, or `http` for the completions of OpenAI's API."""
    with tempfile.TemporaryDirectory(prefix="lorikeet-fake-") as folder:
        log = Path(folder) / "book.jsonl"
        # A session of its own: Linux shares cores out by session, and the driver is to have its share alone.
        command = [sys.executable, "-m", "loadtests.fake", protocol, script.dump(), str(log)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout is not None, "the fake's output is a pipe"
        try:
            with process.stdout:
                port = process.stdout.readline().strip()
            if not port:
                raise LoadTestError(f"the fake server ended with exit code {process.wait()}")
            fake = Fake(f"127.0.0.1:{port}", process.pid)
            yield fake
        finally:
            process.terminate()
            process.wait()
        rows = map(json.loads, log.read_text().splitlines())
        fake.book = {row["index"]: row for row in rows}
