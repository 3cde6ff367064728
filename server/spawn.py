"""Starts processes of our own."""

import asyncio
import os
import sys
from pathlib import Path

import msgspec

from server.engine.config import EngineConfig


async def spawn_engine(folder: Path, config: EngineConfig) -> asyncio.subprocess.Process:
    """It talks through the sockets in `folder`, and ends with the pipe to its standard input."""
    process = await spawn("server.engine.process", folder, asyncio.subprocess.PIPE)
    assert process.stdin is not None, "the process was started with a pipe"
    process.stdin.write(msgspec.json.encode(config, enc_hook=str) + b"\n")
    return process


async def spawn(
    module: str, folder: Path, stdin: int = asyncio.subprocess.DEVNULL
) -> asyncio.subprocess.Process:
    # Apart from the terminal's group: Ctrl-C is for the first front, which then ends the others.
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        str(folder),
        stdin=stdin,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )
