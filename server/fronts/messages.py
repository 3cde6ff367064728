"""What the first front and another one say to each other. Ids are the asking front's own."""

import msgspec

from adapters.store import AdapterVersion
from server.desk import Ask
from server.engine.messages import Abort, Failure, Ready, Submit, Token


class Look(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Hold the version that a reference means, and do nothing with it."""

    id: int
    tenant: str
    adapter_id: str


class Reserve(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The request's prompt has so many tokens."""

    id: int
    num_tokens: int


class Began(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """One of the request's sequences has its first token, so long after it came."""

    id: int
    seconds: float


class Leave(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The request has ended, and so many tokens of answers were given out."""

    id: int
    num_spent: int


# Family, sample, labels, value.
Figure = tuple[str, str, dict[str, str], float]


class Figures(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """All that this front has counted, and what tenants used since it last said so."""

    figures: list[Figure]
    tenants: dict[str, dict[str, float]]


Asked = Ask | Look | Reserve | Began | Leave | Submit | Abort | Figures


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The first message: `number` is of no other front before; `config` is JSON; the port to listen on."""

    number: int
    config: str
    port: int


class State(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """How the engine is, whenever it changes."""

    ready: Ready | None
    is_alive: bool


class Seated(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The request is in, with the version that it holds."""

    id: int
    adapter: AdapterVersion | None = None
    weight: float = 1.0


class Reserved(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """There is room for the request's prompt."""

    id: int


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The request is not in, or not any more; `status` is a google.rpc.Status."""

    id: int
    status: bytes


class Said(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """News of a sequence: tokens, or the end without an answer."""

    id: int
    tokens: list[Token] = []
    failure: Failure | None = None


class Lost(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The engine went away for good before the sequence ended."""

    id: int
    why: str


class Drain(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Tell whoever watches that nothing new is taken."""


class End(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """End whatever is left, and the process."""


Told = Welcome | State | Seated | Reserved | Refused | Said | Lost | Drain | End
