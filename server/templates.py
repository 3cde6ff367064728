"""Chat templates that adapters brought, rendered where an endless loop harms nobody."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256

from adapters.sandbox import environment
from server import workers
from server.errors import InvalidRequest
from server.requests import Turn

# Of processor time; a template of a real model takes a few milliseconds.
RENDER_SECONDS = 1.0


class TemplateProcess:
    """One process, started when it is first needed and again when a template has brought it down.

    Such a template is not tried again: it could hold up everybody else's.
    """

    def __init__(self) -> None:
        # One at a time, in the order in which they come; and no thread that others wait for.
        self._pool = ThreadPoolExecutor(1, "templates")
        self._child: subprocess.Popen[str] | None = None
        self._banned: set[bytes] = set()

    async def render(self, template: str, tokens: Mapping[str, str], messages: Sequence[Turn]) -> str:
        """The conversation as text, up to where the assistant speaks next. Raises InvalidRequest."""
        return await workers.run(self._pool, partial(self._render, template, tokens, messages))

    def close(self) -> None:
        """Waits for who is being rendered; once more changes nothing."""
        self._pool.shutdown()
        self._end()

    def _render(self, template: str, tokens: Mapping[str, str], messages: Sequence[Turn]) -> str:
        name = sha256(template.encode("utf-8", "surrogatepass")).digest()
        if name in self._banned:
            raise _refusal("it took too much time or memory before")
        task = {
            "template": template,
            "tokens": dict(tokens),
            "messages": [{"role": turn.role, "content": turn.content} for turn in messages],
            "seconds": RENDER_SECONDS,
        }
        answer = self._ask(json.dumps(task))
        if answer is None:
            self._banned.add(name)
            self._end()
            raise _refusal(f"it takes more than {RENDER_SECONDS:g} s or too much memory")
        if "error" in answer:
            raise _refusal(answer["error"])
        return answer["text"]

    def _ask(self, task: str) -> dict[str, str] | None:
        """None if the process ended over it."""
        if self._child is None or self._child.poll() is not None:
            self._end()
            self._child = _start()
        assert self._child.stdin is not None and self._child.stdout is not None
        try:
            self._child.stdin.write(task + "\n")
            self._child.stdin.flush()
            answer: dict[str, str] = json.loads(self._child.stdout.readline() or "null")
        except (BrokenPipeError, ValueError):
            return None
        return answer

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            with self._child:
                self._child = None


def _start() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-s", "-m", "server.template_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
        encoding="utf-8",
    )


def _refusal(why: str) -> InvalidRequest:
    return InvalidRequest.of("chat", f"the adapter's chat template refuses it: {why}")
