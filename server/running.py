"""The process around a front: its event loop, and when it is told to end."""

import asyncio
import signal
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

ENDINGS = (signal.SIGTERM, signal.SIGINT)


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
