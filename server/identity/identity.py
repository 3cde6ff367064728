"""From what a call brings along to its caller."""

import hmac
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from server.caller import Caller
from server.errors import Unauthenticated
from server.identity.jwt import Tokens
from server.identity.keys import Key
from server.identity.tenants import TenantsNow
from server.identity.token import PREFIX, Token

log = logging.getLogger(__name__)

Metadata = Iterable[tuple[str, str | bytes]]
# By property name, as gRPC tells them: a verified certificate's names among them.
Peer = Mapping[str, Sequence[bytes]]

SCHEME = "bearer "
NAMES = ("x509_subject_alternative_name", "x509_common_name")
INVALID = "The key is not valid; check that it was copied whole."


class Identity:
    """Every credential that the server takes. All methods raise Unauthenticated."""

    def __init__(
        self,
        keys: Callable[[], Mapping[str, Key]] | None,
        tokens: Tokens | None,
        tenants: TenantsNow,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._tenants = tenants
        self._clock = clock

    def caller(self, metadata: Metadata, peer: Peer) -> Caller:
        """A key or a token decides; a certificate speaks alone only where there is neither."""
        bearer = _bearer(metadata)
        certified = self._of_certificate(peer)
        if not bearer:
            if certified is None:
                raise Unauthenticated(
                    "The call has no key; send one as the metadata `authorization: Bearer KEY`."
                )
            return certified
        caller = self._of_key(bearer) if bearer.startswith(PREFIX) else self._of_token(bearer)
        if certified is not None and certified.tenant != caller.tenant:
            raise Unauthenticated("The key and the client's certificate are of different tenants.")
        return caller

    def _of_key(self, text: str) -> Caller:
        token = Token.parse(text)
        if token is None or self._keys is None:
            raise Unauthenticated(INVALID)
        key, now = self._keys().get(token.key_id), self._clock()
        if key is None:
            # As long as a key that is there takes.
            hmac.compare_digest(token.sha256, "0" * 64)
            raise Unauthenticated(INVALID)
        if not key.holds(token.sha256, now):
            raise Unauthenticated(INVALID)
        state = key.state(now)
        if state != "live":
            raise Unauthenticated(f"The key is {state}; ask for a new one.")
        return Caller(key.tenant, key.id, frozenset(key.scopes))

    def _of_token(self, text: str) -> Caller:
        if self._tokens is None:
            raise Unauthenticated(INVALID)
        return self._tokens.caller(text)

    def _of_certificate(self, peer: Peer) -> Caller | None:
        """gRPC has checked that the certificate is of the CA for clients."""
        tenants = self._tenants()
        for name in (name.decode(errors="replace") for kind in NAMES for name in peer.get(kind, ())):
            tenant = tenants.of_certificate(name)
            if tenant is not None:
                return Caller(tenant, f"cert:{name}", frozenset(tenants.get(tenant).certificate_scopes))
        return None


def _bearer(metadata: Metadata) -> str:
    """The credential of `authorization`; empty where there is none."""
    found = [value for name, value in metadata if name == "authorization"]
    if not found:
        return ""
    (value, *others) = found
    if others or not isinstance(value, str) or not value.lower().startswith(SCHEME):
        raise Unauthenticated("`authorization` must be there once and read `Bearer KEY`.")
    return value[len(SCHEME) :].strip()
