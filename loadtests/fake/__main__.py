"""`python -m loadtests.fake PROTOCOL SCRIPT LOG`: says its port, plays until SIGTERM, writes its book."""

import asyncio
import gc
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from loadtests.fake import grpc_server, http_server
from loadtests.fake.play import Play
from loadtests.fake.script import Script


async def main(protocol: str, script: str, log: str) -> None:
    play = Play(Script.parse(script))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with _serving(protocol, play) as port:
        print(port, flush=True)
        await stop.wait()
    play.write(Path(log))


@asynccontextmanager
async def _serving(protocol: str, play: Play) -> AsyncIterator[int]:
    if protocol == "http":
        runner, port = await http_server.start(play)
        yield port
        await runner.cleanup()
    else:
        server, port = await grpc_server.start(play)
        yield port
        await server.stop(None)


if __name__ == "__main__":
    # A pause of the fake would be taken for the driver's.
    gc.disable()
    asyncio.run(main(*sys.argv[1:]))
