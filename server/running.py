"""The process around a front: its event loop, and when it is told to end."""

import asyncio
import gc
import signal
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

ENDINGS = (signal.SIGTERM, signal.SIGINT)

# Of garbage collections: new objects for a young one, young ones for an older, older ones for a full one.
THRESHOLDS = (1_000, 10, 50)


def settle() -> None:
    """Says that all is loaded: what is there stays, so the garbage collector looks at it no more.

    A full collection stops every stream. Over what a front has loaded it takes about 0.1 s, over a thousand
    calls as much again, and by itself it comes whenever a quarter more is there.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


async def told_to_end() -> None:
    """Returns at the first SIGTERM or SIGINT; a second one is no longer caught."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in ENDINGS:
        loop.add_signal_handler(number, told.set)
    await told.wait()
    for number in ENDINGS:
        loop.remove_signal_handler(number)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed."""
    if find_spec("uvloop") is None:
        return None
    uvloop: Any = import_module("uvloop")
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
