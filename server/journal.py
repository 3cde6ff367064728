"""The audit log as the services use it: one line for each call that changes something."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc

from server.audit import AuditLog
from server.caller import current_caller
from server.status import to_status
from server.workers import run

Context: TypeAlias = Any
MAX_FIELD = 256
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class Journal:
    """Belongs to the event loop; lines are written on a thread of their own."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log
        self._pool = ThreadPoolExecutor(1, "audit")

    @asynccontextmanager
    async def note(self, what: str, name: str, context: Context) -> AsyncIterator[dict[str, Any]]:
        """Writes down what the block did, before its caller hears of it; the block may add to the fields.

        Raises StoreUnavailable: before the block if nothing can be written, behind it if this could not.
        """
        self._log.require()
        caller = current_caller()
        fields = {
            "tenant": caller.tenant,
            "key": getattr(caller, "key_id", ""),
            "peer": caller.peer or context.peer(),
            "what": what,
            "name": name[:MAX_FIELD],
            "request": _request_id(context),
        }
        code = "UNKNOWN"
        try:
            yield fields
            code = "OK"
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception as error:
            status = to_status(error)
            code = "INTERNAL" if status is None else _CODES[status.code]
            raise
        finally:
            await run(self._pool, lambda: self._log.write(**fields, code=code))

    def close(self) -> None:
        self._pool.shutdown()
        self._log.close()


def _request_id(context: Context) -> str:
    """The caller's own id for the call, or one drawn here."""
    given = dict(context.invocation_metadata() or ()).get("x-request-id", "")
    return str(given)[:MAX_FIELD] or secrets.token_hex(8)
