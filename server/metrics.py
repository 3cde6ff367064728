"""What the front itself measures. Adapters never become labels, tenants only so many."""

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lorikeet.v1 import adapters_pb2, inference_pb2
from server.tenant_metrics import Tally

GENERATE = f"/{inference_pb2.DESCRIPTOR.services_by_name['Inference'].full_name}/Generate"
UPLOAD = f"/{adapters_pb2.DESCRIPTOR.services_by_name['Adapters'].full_name}/Upload"

SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """Every metric of the front, named once; the engine's are named in `engine_metrics`."""

    def __init__(self, tenants: Tally) -> None:
        registry = self.registry = CollectorRegistry()
        self.tenants = tenants

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"lorikeet:{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = LONG) -> Histogram:
            return Histogram(f"lorikeet:{name}", text, registry=registry, buckets=buckets)

        self.rpcs = counter("rpcs_total", "Calls by method and status", "method", "code")
        self.requests = counter("requests_total", "Generate calls by outcome", "outcome")
        self.uploads = counter("uploads_total", "Uploads by outcome", "outcome")
        self.samples = counter("samples_total", "Finished samples by reason", "reason")
        self.prompt_tokens = counter("prompt_tokens_total", "Tokens of prompts taken in")
        self.answer_tokens = counter("generation_tokens_total", "Tokens of answers given out")
        self.live = Gauge("lorikeet:live_sequences", "Sequences admitted and not ended", registry=registry)
        self.latency = histogram("request_latency_seconds", "A whole Generate call")
        self.first_token = histogram("time_to_first_token_seconds", "From arrival to the first token")
        self.inter_token = histogram("inter_token_latency_seconds", "Mean over each message's tokens", SHORT)
        self.queue = histogram("queue_seconds", "Waiting to be scheduled")
        self.load = histogram("adapter_wait_seconds", "Waiting for an adapter to reach the device")

    def rpc_done(self, method: str, code: grpc.StatusCode, seconds: float, tenant: str = "") -> None:
        """Counts one call, whatever its shape; `method` is one that exists, `tenant` empty for strangers."""
        outcome = code.name.lower()
        self.rpcs.labels(method, outcome).inc()
        if method == GENERATE:
            self.requests.labels(outcome).inc()
            self.latency.observe(seconds)
            if tenant:
                self.tenants.add(tenant, requests=1, refused=code is grpc.StatusCode.RESOURCE_EXHAUSTED)
        elif method == UPLOAD:
            self.uploads.labels(outcome).inc()
