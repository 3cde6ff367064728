"""The gRPC server of a front: what every front's is like, and where it listens."""

import logging
import socket
from collections.abc import Sequence

import grpc
from grpc_reflection.v1alpha import reflection

from lorikeet.v1 import adapters_pb2, grants_pb2, inference_pb2
from server.config import ServerConfig, is_loopback

log = logging.getLogger(__name__)

# After the drain: calls that are left are cancelled, and get this long to say so.
STOP_SECONDS = 1.0
MINUTE_MS = 60_000

OPTIONS = (
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.max_concurrent_streams", 256),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.absolute_max_metadata_size", 16 << 10),
    ("grpc.keepalive_time_ms", MINUTE_MS),
    ("grpc.keepalive_timeout_ms", MINUTE_MS // 3),
    # Of other pings than those for keepalive, which wait for them.
    ("grpc.http2.ping_timeout_ms", MINUTE_MS // 3),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", MINUTE_MS // 6),
    # Connections end now and then, so that balancers spread them anew; answers may be that long.
    ("grpc.max_connection_age_ms", 30 * MINUTE_MS),
    ("grpc.max_connection_age_grace_ms", 60 * MINUTE_MS),
)
INFERENCE, ADAPTERS, GRANTS = SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name,
    adapters_pb2.DESCRIPTOR.services_by_name["Adapters"].full_name,
    grants_pb2.DESCRIPTOR.services_by_name["Grants"].full_name,
)


def make_server(
    config: ServerConfig,
    interceptors: Sequence[grpc.aio.ServerInterceptor],  # type: ignore[type-arg]
) -> grpc.aio.Server:
    """Without services; fronts of one server share its port."""
    # Two servers on one port would share its calls unnoticed.
    shares_port = ("grpc.so_reuseport", int(config.fronts > 1))
    server = grpc.aio.server(interceptors=interceptors, options=(*OPTIONS, shares_port))
    if config.reflection:
        reflection.enable_server_reflection((*SERVICES, reflection.SERVICE_NAME), server)
    return server


def listen(
    server: grpc.aio.Server, config: ServerConfig, credentials: grpc.ServerCredentials | None, port: int
) -> int:
    """The port; a free one for 0. Raises RuntimeError if it is taken."""
    address = f"{config.host}:{port}"
    if credentials is not None:
        return server.add_secure_port(address, credentials)
    if not is_loopback(config.host):
        log.warning("without TLS, keys travel in the clear: let %s be reached by a proxy alone", address)
    return server.add_insecure_port(address)


def require_free(host: str, port: int) -> None:
    """Raises OSError where another server listens, also one whose fronts share its port among themselves."""
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, _, _, address in found:
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
