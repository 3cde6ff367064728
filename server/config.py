"""The server's configuration: one frozen record; flags, TOML keys and docs are read from its fields."""

import math
from dataclasses import dataclass

from server.engine.config import COUNT, COUNT_OR_AUTO, EngineConfig, option


@dataclass(frozen=True, kw_only=True)
class ServerConfig(EngineConfig):
    host: str = option("127.0.0.1", "address to listen on")
    port: int = option(50051, "gRPC port; 0 picks a free one", bounds=(0, 65535))
    metrics_port: int = option(
        9464, "HTTP port of /metrics; 0 picks a free one, -1 serves none", bounds=(-1, 65535)
    )
    vllm_metrics: bool = option(False, "also export the gauges under the names that gateways know from vLLM")
    max_adapter_bytes: int = option(2 << 30, "largest adapter an upload may bring, in bytes", bounds=COUNT)
    queue_limit: int = option(1024, "requests waiting or running at most; more are refused", bounds=COUNT)
    stream_interval: float = option(
        0.05,
        "seconds between two messages of a stream when 16 or more run; fewer streams hear sooner",
        bounds=COUNT_OR_AUTO,
    )
    queue_seconds: float = option(
        30.0,
        "seconds that a request may wait for its first token before it is refused",
        bounds=(0.1, math.inf),
    )
    drain_seconds: float = option(
        30.0, "seconds that running streams get to finish after SIGTERM", bounds=COUNT_OR_AUTO
    )
