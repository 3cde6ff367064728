"""Signed tokens of an identity provider, checked against its public keys."""

import json
from typing import Any

import jwt

from adapters.errors import InvalidName
from adapters.names import check_tenant
from server.caller import Caller
from server.errors import Unauthenticated
from server.identity.live_file import LiveFile
from server.identity.scopes import SCOPES, TENANT_SCOPES

# Asymmetric alone: with a shared secret whoever can check a token can make one.
ALGORITHMS = ("RS256", "ES256", "EdDSA")
# A token cannot be revoked, so it must end soon.
MAX_SECONDS = 3600
LEEWAY_SECONDS = 30
MAX_SUBJECT = 64
REQUIRED = ["exp", "iat", "iss", "aud", "sub"]


def read_jwks(data: bytes) -> dict[str, jwt.PyJWK]:
    """Public keys by id; raises ValueError for what is no key set, and for one with a shared secret."""
    try:
        found = jwt.PyJWKSet.from_dict(json.loads(data)).keys
    except (jwt.PyJWTError, AttributeError, TypeError) as error:
        raise ValueError(f"this is no JSON Web Key Set: {error}") from error
    if wrong := [key.key_id for key in found if key.algorithm_name not in ALGORITHMS]:
        raise ValueError(f"keys {wrong} are of none of {', '.join(ALGORITHMS)}")
    return {key.key_id: key for key in found if key.key_id}


class Tokens:
    """Turns a token into its caller."""

    def __init__(
        self, keys: LiveFile[dict[str, jwt.PyJWK]], issuer: str, audience: str, tenant_claim: str
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._tenant_claim = tenant_claim

    def caller(self, token: str) -> Caller:
        """Raises Unauthenticated; only a token whose signature is right is told what else is wrong."""
        try:
            claims = self._claims(token)
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated("The token has expired; ask for a new one.") from error
        except (jwt.PyJWTError, ValueError) as error:
            raise Unauthenticated("The token is not valid here.") from error
        # For the log: of one line, and not for ever.
        subject = ascii(claims["sub"])[1:-1][:MAX_SUBJECT]
        return Caller(self._tenant(claims), f"jwt:{subject}", _scopes(claims))

    def _claims(self, token: str) -> dict[str, Any]:
        key = self._keys.get().get(jwt.get_unverified_header(token).get("kid", ""))
        if key is None:
            raise jwt.InvalidTokenError("no such key")
        claims: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm_name],
            issuer=self._issuer,
            audience=self._audience,
            leeway=LEEWAY_SECONDS,
            options={"require": REQUIRED},
        )
        if claims["exp"] - claims["iat"] > MAX_SECONDS:
            raise jwt.InvalidTokenError("lives too long")
        return claims

    def _tenant(self, claims: dict[str, Any]) -> str:
        tenant = claims.get(self._tenant_claim)
        try:
            return check_tenant(tenant if isinstance(tenant, str) else "")
        except InvalidName as error:
            raise Unauthenticated(f"The token's claim `{self._tenant_claim}` is no tenant.") from error


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    """The claim `scope`, as far as its words are ours; a token without one may do what a tenant may."""
    scope = claims.get("scope")
    if not isinstance(scope, str):
        return frozenset(TENANT_SCOPES)
    return frozenset(scope.split()) & frozenset(SCOPES)
