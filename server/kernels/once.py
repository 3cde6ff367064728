"""What is made once, whichever threads ask for it."""

from collections.abc import Callable
from concurrent.futures import Future
from functools import wraps
from threading import Lock
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def once(make: Callable[P, R]) -> Callable[P, R]:
    """Like functools.cache, but who asks for what another thread is making waits for that thread.

    Nobody waits for what he has not asked for. What could not be made is tried again by the next who asks.
    """
    made: dict[object, Future[R]] = {}
    lock = Lock()

    @wraps(make)
    def ask(*args: P.args, **kwargs: P.kwargs) -> R:
        key = args, tuple(sorted(kwargs.items()))
        with lock:
            is_first = key not in made
            future = made.setdefault(key, Future())
        if is_first:
            try:
                future.set_result(make(*args, **kwargs))
            except BaseException as error:
                del made[key]
                future.set_exception(error)
                raise
        return future.result()

    return ask
