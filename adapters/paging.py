"""Page tokens: where a listing stopped, opaque to the client and checked when it comes back."""

from __future__ import annotations

import base64

from adapters.errors import InvalidName
from adapters.names import parse_reference


def encode_token(name: str, version: int) -> str:
    """The token that continues after this version."""
    return base64.urlsafe_b64encode(f"{name}@{version}".encode()).decode()


def decode_token(token: str) -> tuple[str, int]:
    """The (name, version) a token continues after; "" begins before all. Raises InvalidName."""
    if not token:
        return "", 0
    try:
        reference = parse_reference(base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode())
    except (ValueError, InvalidName) as error:
        raise InvalidName("The page token is not one this server gave; start again without one.") from error
    return reference.name, reference.version or 0
