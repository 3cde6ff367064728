"""The text of an API key.

    lmk_3f9c0a1b2c3d_<64 hex digits><8 hex digits>
        id            secret          CRC-32 of all that stands before it

The prefix and the CRC let scanners of leaked secrets be sure of a find; a mistyped key is known as one.
"""

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass

PREFIX = "lmk_"
_SHAPE = re.compile(r"(lmk_([0-9a-f]{12})_([0-9a-f]{64}))([0-9a-f]{8})\Z", re.ASCII)


@dataclass(frozen=True)
class Token:
    """A key's id and its secret, which is shown once and never kept."""

    key_id: str
    secret: str

    @classmethod
    def mint(cls, key_id: str = "") -> "Token":
        """256 random bits under a new id, or under one that is there."""
        return cls(key_id or secrets.token_hex(6), secrets.token_hex(32))

    @classmethod
    def parse(cls, text: str) -> "Token | None":
        """None for what is no key, or one that was mistyped."""
        match = _SHAPE.match(text)
        if match is None or match[4] != _crc(match[1]):
            return None
        return cls(match[2], match[3])

    @property
    def text(self) -> str:
        body = f"{PREFIX}{self.key_id}_{self.secret}"
        return body + _crc(body)

    @property
    def sha256(self) -> str:
        """What is kept. A secret of 256 random bits needs no slow hash."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"Token({self.key_id!r}, ...)"


def _crc(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
