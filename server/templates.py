"""Chat templates that adapters brought, rendered where an endless loop harms nobody."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from typing import Any

from server import workers
from server.errors import InvalidRequest, NotReady
from server.fair_lock import FairLock
from server.requests import Turn
from server.strikes import MAX_STRIKES, Strikes
from server.template_child import Child, ChildLost, OverLimit

# For which one waits behind others'.
PATIENCE_SECONDS = 10.0

log = logging.getLogger(__name__)


class Templates:
    """One process, started when it is first needed and again when it was lost.

    What takes too much counts against its tenant and template, never against the template for other tenants.
    """

    def __init__(self, start: Callable[[], Child] = Child, patience: float = PATIENCE_SECONDS) -> None:
        self._start = start
        self._patience = patience
        self._lock = FairLock()
        # All below belongs to this thread; and no thread that others wait for.
        self._pool = ThreadPoolExecutor(1, "templates")
        self._strikes = Strikes()
        self._child: Child | None = None

    async def render(
        self, tenant: str, template: str, tokens: Mapping[str, str], messages: Sequence[Turn]
    ) -> str:
        """The conversation as text, up to where the assistant speaks next.

        Raises InvalidRequest; NotReady where others hold it up, or no process can be had.
        """
        try:
            async with self._lock.turn(tenant, self._patience):
                return await workers.run(
                    self._pool, partial(self._render, tenant, template, tokens, messages)
                )
        except TimeoutError as error:
            raise NotReady("Other chat templates are being rendered; try again in a moment.") from error

    def close(self) -> None:
        """Waits for who is being rendered; once more changes nothing."""
        self._pool.shutdown()
        self._end()

    def _render(self, tenant: str, template: str, tokens: Mapping[str, str], messages: Sequence[Turn]) -> str:
        who = tenant, sha256(template.encode("utf-8", "surrogatepass")).digest()
        if seconds := self._strikes.seconds_left(who):
            often = f"it took too much time or memory for {MAX_STRIKES} conversations"
            raise _refusal(f"{often}, and is tried again in {seconds:.0f} s")
        try:
            answer = self._ask_twice(_task(template, tokens, messages))
        except OverLimit as limit:
            # Here, since whoever asked may have left by now.
            self._strikes.add(who)
            raise _refusal(f"it takes {limit} for this conversation; send a shorter one") from limit
        except ChildLost as error:
            raise NotReady("Chat templates cannot be rendered at the moment; try again.") from error
        if "error" in answer:
            raise _refusal(answer["error"])
        return answer["text"]

    def _ask_twice(self, task: dict[str, Any]) -> dict[str, str]:
        """A process that is lost says nothing of what it rendered, which is tried on another one."""
        try:
            return self._ask(task)
        except ChildLost as error:
            log.warning("the process for chat templates was lost, another one is started: %s", error)
            return self._ask(task)

    def _ask(self, task: dict[str, Any]) -> dict[str, str]:
        try:
            return self._usable_child().ask(task)
        except ChildLost:
            self._end()
            raise

    def _usable_child(self) -> Child:
        if self._child is None or not self._child.is_usable:
            self._end()
            self._child = self._start()
        return self._child

    def _end(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


def _task(template: str, tokens: Mapping[str, str], messages: Sequence[Turn]) -> dict[str, Any]:
    return {
        "template": template,
        "tokens": dict(tokens),
        "messages": [{"role": turn.role, "content": turn.content} for turn in messages],
    }


def _refusal(why: str) -> InvalidRequest:
    return InvalidRequest.of("chat", f"the adapter's chat template refuses it: {why}")
