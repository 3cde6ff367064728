"""TLS whose certificates may be replaced while the server runs."""

from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from server.identity.live_file import LiveFile

Config = grpc.ServerCertificateConfiguration


def server_credentials(certificate: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """Raises OSError or ValueError for files that cannot be used.

    With a CA for clients, a connection without a certificate of that CA is refused.
    """
    paths = (certificate, key) if client_ca is None else (certificate, key, client_ca)
    file = LiveFile(paths, _configuration)

    # Asked at every handshake.
    return grpc.dynamic_ssl_server_credentials(file.get(), file.get, client_ca is not None)


def _configuration(certificate: bytes, key: bytes, client_ca: bytes | None = None) -> Config:
    _require_pair(certificate, key)
    return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)


def _require_pair(certificate: bytes, key: bytes) -> None:
    """Between two renames a new certificate may stand beside an old key."""
    own = x509.load_pem_x509_certificate(certificate).public_key()
    if own != load_pem_private_key(key, None).public_key():
        raise ValueError("the key is not the certificate's")
