"""What the client hands back of an adapter's life: states, cards and aliases."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lorikeet.types import AdapterVersion
from lorikeet.v1 import adapters_pb2


@dataclass(frozen=True, slots=True)
class AdapterStatus:
    """One state of a version or of an upload.

    `state` is `uploading`, `checking`, `rejected`, `stored`, `on_host`, `on_device`, `draining` or `deleted`;
    `received` of `total` bytes are there while it is uploaded, `running` requests run on it.
    """

    state: str
    reasons: tuple[str, ...]
    received: int
    total: int
    version: AdapterVersion | None
    running: int

    @classmethod
    def from_proto(cls, message: adapters_pb2.AdapterStatus) -> "AdapterStatus":
        stored = AdapterVersion.from_proto(message.version) if message.HasField("version") else None
        return cls(
            state=adapters_pb2.AdapterState.Name(message.state).removeprefix("ADAPTER_STATE_").lower(),
            reasons=tuple(message.reasons),
            received=sum(file.committed for file in message.upload.files),
            total=sum(file.size for file in message.upload.files),
            version=stored,
            running=message.running,
        )


@dataclass(frozen=True, slots=True)
class AdapterCard:
    """What the trainer said of a version: its model card as Markdown, and its manifest."""

    version: AdapterVersion
    readme: str
    training: dict[str, Any]

    @classmethod
    def from_proto(cls, message: adapters_pb2.AdapterCard) -> "AdapterCard":
        return cls(AdapterVersion.from_proto(message.version), message.readme, _object(message.training_json))


@dataclass(frozen=True, slots=True)
class AliasState:
    """What an alias pointed at from `change_time` on: version -> weight, empty while it did not exist."""

    shares: dict[int, int]
    change_time: datetime
    revision: int


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that points at versions by weight; `etag` names this state, `history` ends with it."""

    name: str
    alias: str
    shares: dict[int, int]
    etag: str
    history: tuple[AliasState, ...]

    @property
    def id(self) -> str:
        """What requests call it: `name@alias`."""
        return f"{self.name}@{self.alias}"

    @classmethod
    def from_proto(cls, message: adapters_pb2.Alias) -> "Alias":
        history = tuple(
            AliasState(_shares(state.shares), state.change_time.ToDatetime(tzinfo=UTC), state.revision)
            for state in message.history
        )
        return cls(message.name, message.alias, _shares(message.shares), message.etag, history)


def _shares(messages: Any) -> dict[int, int]:
    return {share.version: share.weight for share in messages}


def _object(text: str) -> dict[str, Any]:
    """The trainer's manifest; empty for what is none, since the server takes what it was given."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
