"""The door as the configuration describes it."""

import logging

import grpc

from server.config import ServerConfig
from server.identity.access import Access
from server.identity.identity import Identity
from server.identity.jwt import Tokens, read_jwks
from server.identity.keys import read_table
from server.identity.live_file import LiveFile
from server.identity.tenants import TenantsNow
from server.identity.tls import server_credentials

log = logging.getLogger(__name__)


def build_access(config: ServerConfig, tenants: TenantsNow) -> Access:
    """Raises OSError or ValueError for a file that cannot be used."""
    if not config.has_identity:
        log.warning("no keys are configured: whoever reaches %s may do everything", config.host)
        return Access()
    keys = None if config.keys is None else LiveFile((config.keys,), read_table).get
    return Access(Identity(keys, _tokens(config), tenants))


def build_credentials(config: ServerConfig) -> grpc.ServerCredentials | None:
    """None without TLS. Raises OSError or ValueError for a file that cannot be used."""
    if config.tls_cert is None or config.tls_key is None:
        return None
    return server_credentials(config.tls_cert, config.tls_key, config.tls_client_ca)


def _tokens(config: ServerConfig) -> Tokens | None:
    if config.jwt_keys is None:
        return None
    keys = LiveFile((config.jwt_keys,), read_jwks)
    return Tokens(keys, config.jwt_issuer, config.jwt_audience, config.jwt_tenant_claim)
