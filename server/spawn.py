"""Starts the engine's process."""

import asyncio
import os
import sys
from pathlib import Path

import msgspec

from server.engine.config import EngineConfig


async def spawn_engine(folder: Path, config: EngineConfig) -> asyncio.subprocess.Process:
    """It talks through the sockets in `folder`, and ends with the pipe to its standard input."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "server.engine.process",
        str(folder),
        stdin=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )
    assert process.stdin is not None, "the process was started with a pipe"
    process.stdin.write(msgspec.json.encode(config, enc_hook=str) + b"\n")
    return process
