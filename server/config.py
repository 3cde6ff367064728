"""The server's configuration: one frozen record; flags, TOML keys and docs are read from its fields."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from adapters.opening import is_bucket
from server.engine.config import COUNT, COUNT_OR_AUTO, EngineConfig, option


@dataclass(frozen=True, kw_only=True)
class ServerConfig(EngineConfig):
    host: str = option("127.0.0.1", "address to listen on")
    port: int = option(50051, "gRPC port; 0 picks a free one", bounds=(0, 65535))
    fronts: int = option(
        1,
        "processes that speak gRPC on the port, before one engine; more where one core is too few for text",
        bounds=(1, 64),
    )
    keys: Path | None = option(None, "file of API keys, as `lorikeet keys` makes it")
    tenants: Path | None = option(
        None, "TOML or JSON file with each tenant's limits, weight and certificates"
    )
    jwt_keys: Path | None = option(None, "JSON Web Key Set of the tokens' issuer")
    jwt_issuer: str = option("", "`iss` that tokens must have")
    jwt_audience: str = option("", "`aud` that tokens must have")
    jwt_tenant_claim: str = option("tenant", "claim of a token that names its tenant")
    tls_cert: Path | None = option(None, "the server's certificate chain, PEM; replaced files are taken up")
    tls_key: Path | None = option(None, "its private key, PEM")
    tls_client_ca: Path | None = option(None, "CA, PEM; clients then need a certificate of it")
    reflection: bool = option(False, "describe the services to whoever asks, without a key")
    otlp_endpoint: str = option(
        "", "collector of OpenTelemetry spans, such as http://localhost:4317 (extra: otel)"
    )
    metrics_host: str = option("", "address of /metrics; the same as --host if empty")
    metrics_tenants: int = option(
        20, "tenants with metrics of their own; the others' are summed", bounds=COUNT_OR_AUTO
    )
    metrics_port: int = option(
        9464, "HTTP port of /metrics; 0 picks a free one, -1 serves none", bounds=(-1, 65535)
    )
    vllm_metrics: bool = option(False, "also export the gauges under the names that gateways know from vLLM")
    max_adapter_bytes: int = option(2 << 30, "largest adapter an upload may bring, in bytes", bounds=COUNT)
    adapter_cache: Path = option(
        Path(".lorikeet/cache"), "folder for copies of adapters, where the store is s3://bucket/prefix"
    )
    adapter_cache_bytes: int = option(64 << 30, "bytes of such copies", bounds=COUNT)
    s3_endpoint: str = option("", "URL of the bucket's service; empty is AWS")
    store_refresh_seconds: float = option(
        5.0, "seconds until what another server changed in a shared bucket is seen here", bounds=(0.05, 3600)
    )
    max_adapters: int = option(0, "versions that one tenant may keep; 0 is no limit", bounds=COUNT_OR_AUTO)
    max_adapter_store_bytes: int = option(
        0, "bytes of adapters that one tenant may keep; 0 is no limit", bounds=COUNT_OR_AUTO
    )
    max_pinned_adapters: int = option(
        8, "versions that one tenant may pin; 0 is no limit", bounds=COUNT_OR_AUTO
    )
    upload_hours: float = option(
        24.0, "hours after which an unfinished upload is removed", bounds=(0, math.inf)
    )
    upload_bytes: int = option(
        64 << 30, "bytes of unfinished uploads that are kept for their senders", bounds=COUNT
    )
    audit_log: str = option("", "folder of the audit log; empty is audit/ in the adapter store's folder")
    audit_file_bytes: int = option(64 << 20, "bytes in one file of the audit log", bounds=COUNT)
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
    hang_seconds: float = option(
        60.0,
        "seconds of silence after which an engine that has work is killed and started again",
        bounds=(5.0, math.inf),
    )
    drain_seconds: float = option(
        30.0, "seconds that running streams get to finish after SIGTERM", bounds=COUNT_OR_AUTO
    )

    def __post_init__(self) -> None:
        """Raises ValueError with every option that cannot be, also beside the others."""
        super().__post_init__()
        if problems := list(identity_problems(self)):
            raise ValueError("; ".join(problems))

    @property
    def adapter_folder(self) -> Path:
        """Where on this machine the engine finds adapters: the store itself, or the copies of a bucket's."""
        return self.adapter_cache if is_bucket(self.adapter_store) else self.adapter_store

    @property
    def audit_folder(self) -> Path:
        """Where the audit log is."""
        return Path(self.audit_log) if self.audit_log else self.adapter_folder / "audit"

    @property
    def has_identity(self) -> bool:
        """Whether callers are asked who they are."""
        return any((self.keys, self.jwt_keys, self.tls_client_ca))


def identity_problems(config: ServerConfig) -> Iterator[str]:
    """Every combination of options that would leave the door open or shut for good."""
    if bool(config.tls_cert) != bool(config.tls_key):
        yield "tls_cert and tls_key belong together"
    if config.tls_client_ca and not (config.tls_cert and config.tenants):
        yield "tls_client_ca needs tls_cert, tls_key and a tenants file that names the certificates"
    if any((config.jwt_keys, config.jwt_issuer, config.jwt_audience)) and not all(
        (config.jwt_keys, config.jwt_issuer, config.jwt_audience, config.jwt_tenant_claim)
    ):
        yield "jwt_keys, jwt_issuer and jwt_audience belong together"
    if not config.has_identity and not is_loopback(config.host):
        yield (
            f"host {config.host} can be reached by others, and without keys they may do everything: make "
            "one with `lorikeet keys create` and serve with --keys, or use --jwt-keys or --tls-client-ca"
        )


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reachable from this machine alone."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
