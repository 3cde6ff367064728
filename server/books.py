"""What is kept of every call: one line of the log, one measurement, one span."""

import logging
import time

import grpc

from server.caller import Caller
from server.metrics import Metrics
from server.trace import Spans, Trace

log = logging.getLogger(__name__)

# The services of others that come with gRPC are called every few seconds by whoever watches.
QUIET = ("/grpc.health.", "/grpc.reflection.")


class Books:
    def __init__(self, metrics: Metrics, spans: Spans) -> None:
        self._metrics = metrics
        self._spans = spans

    def note(self, method: str, code: grpc.StatusCode, began: float, caller: Caller, trace: Trace) -> None:
        """A call has ended just now; `began` is of the monotonic clock."""
        seconds = time.monotonic() - began
        self._metrics.rpc_done(method, code, seconds, caller.tenant)
        level = logging.DEBUG if method.startswith(QUIET) else logging.INFO
        who = (caller.tenant or "-", caller.key_id or "-", trace.request_id)
        line = "%s %s %.1f ms tenant=%s key=%s request=%s"
        log.log(level, line, method, code.name, seconds * 1000, *who)
        if level == logging.INFO:
            self._spans.call(trace, method, code, began, {"lorikeet.tenant": caller.tenant})
