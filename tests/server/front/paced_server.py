"""A server in a process of its own whose engine gives every request a token each tenth of a second.

Usage: paced_server.py BASE STORE PATIENCE, seconds that a reader may take nothing. A request for more than
NUM_TOKENS tokens gets as many as its reader takes, and no end.
"""

import asyncio
import itertools
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from server import app
from server.config import ServerConfig
from server.engine.messages import Failure, Started, Submit, Token
from tests.server.front.house import FakeLink

STEP_SECONDS, NUM_TOKENS, FLOOD_TOKENS = 0.1, 20, 500


class PacedLink(FakeLink):
    async def submit(self, request: Submit) -> AsyncIterator[list[Token] | Failure]:
        is_flood = request.sampling.max_new_tokens > NUM_TOKENS
        for number in itertools.count():
            await asyncio.sleep(STEP_SECONDS)
            finish = "length" if number == NUM_TOKENS - 1 and not is_flood else ""
            first = None if number else Started(0, 0.0, 0.0)
            yield [Token(request.id, 40, finish, first)] * (FLOOD_TOKENS if is_flood else 1)
            if finish:
                return


def main(base: str, store: str, patience: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = ServerConfig(base=base, adapter_store=Path(store), port=0, metrics_port=-1, queue_limit=2000)
    front = app.Front(config, lambda config: PacedLink())
    front._inference._patience = float(patience)
    asyncio.run(app._serve(front))


if __name__ == "__main__":
    main(*sys.argv[1:])
