"""Spans by OTLP, in the extra `otel`."""

import time

import grpc
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from server.trace import SAMPLED, Facts, Phases, Trace

SERVICE = "lorikeet"
SEND_SECONDS = 2


class _Ids(RandomIdGenerator):
    """Lets a call's span have the ids that its caller was told."""

    def __init__(self) -> None:
        self.call: Trace | None = None

    def generate_span_id(self) -> int:
        return int(self.call.span_id, 16) if self.call else super().generate_span_id()

    def generate_trace_id(self) -> int:
        return int(self.call.trace_id, 16) if self.call else super().generate_trace_id()


class OtelSpans:
    """Sends spans in the background; a collector that is not there costs calls nothing."""

    def __init__(self, endpoint: str) -> None:
        self._ids = _Ids()
        resource = Resource.create({"service.name": SERVICE})
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(
            endpoint, insecure=not endpoint.startswith("https://"), timeout=SEND_SECONDS
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(SERVICE)

    def call(self, trace: Trace, method: str, code: grpc.StatusCode, began_at: float, facts: Facts) -> None:
        parent = _context(trace, trace.parent_id) if trace.parent_id else None
        self._ids.call = trace
        span = self._tracer.start_span(
            method.removeprefix("/"),
            parent,
            SpanKind.SERVER,
            _attributes(trace, facts),
            start_time=_wall(began_at),
        )
        self._ids.call = None
        if code is not grpc.StatusCode.OK:
            span.set_status(Status(StatusCode.ERROR, code.name))
        span.end()

    def phases(self, trace: Trace, phases: Phases, facts: Facts) -> None:
        parent = _context(trace, trace.span_id)
        for name, (began_at, ended_at) in phases.items():
            attributes = _attributes(trace, facts)
            span = self._tracer.start_span(name, parent, attributes=attributes, start_time=_wall(began_at))
            span.end(_wall(ended_at))

    def close(self) -> None:
        self._provider.force_flush(SEND_SECONDS * 1000)
        self._provider.shutdown()


def _context(trace: Trace, span_id: str) -> Context:
    flags = TraceFlags(trace.flags & SAMPLED)
    parent = SpanContext(int(trace.trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(parent))


def _attributes(trace: Trace, facts: Facts) -> dict[str, str | int]:
    return {**facts, "lorikeet.request_id": trace.request_id}


def _wall(at: float) -> int:
    """Nanoseconds since the epoch of an instant of the monotonic clock."""
    return time.time_ns() - int((time.monotonic() - at) * 1e9)
