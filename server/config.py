"""The server's configuration: one frozen record; flags, TOML keys and docs are read from its fields."""

from dataclasses import dataclass

from server.engine.config import EngineConfig, option


@dataclass(frozen=True, kw_only=True)
class ServerConfig(EngineConfig):
    host: str = option("127.0.0.1", "address to listen on")
    port: int = option(50051, "gRPC port; 0 picks a free one")
    metrics_port: int = option(9464, "HTTP port of /metrics; 0 picks a free one, -1 serves none")
    vllm_metrics: bool = option(False, "also export the gauges under the names that gateways know from vLLM")
    max_adapter_bytes: int = option(2 << 30, "largest adapter an upload may bring, in bytes")
    queue_limit: int = option(1024, "requests waiting or running at most; more are refused")
    stream_interval: float = option(
        0.05, "seconds between two messages of a stream when 16 or more run; fewer streams hear sooner"
    )
