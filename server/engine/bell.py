"""Wakes a loop that waits for sockets: another thread has done something for it."""

import os
from contextlib import suppress


class Bell:
    """`ring` from any thread; the loop waits for `fd` to be readable, and hushes it."""

    def __init__(self) -> None:
        self.fd, self._rope = os.pipe()
        for end in (self.fd, self._rope):
            os.set_blocking(end, False)

    def ring(self) -> None:
        # Full: it rings already. Closed: nobody listens any more.
        with suppress(OSError):
            os.write(self._rope, b"\0")

    def hush(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                pass

    def close(self) -> None:
        # The number may be given to another file at once, so the rope is no longer pulled at.
        rope, self._rope = self._rope, -1
        os.close(rope)
        os.close(self.fd)
