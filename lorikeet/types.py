"""What the client hands back: frozen records, free of protobuf."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from lorikeet.v1 import adapters_pb2, inference_pb2


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token with the natural logarithm of its probability."""

    token_id: int
    text: str
    logprob: float

    @classmethod
    def from_proto(cls, message: inference_pb2.TokenLogprob) -> "TokenLogprob":
        return cls(message.token_id, message.text, message.logprob)


@dataclass(frozen=True, slots=True)
class Logprobs:
    """The chosen token beside the likeliest ones, likeliest first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]

    @classmethod
    def from_proto(cls, message: inference_pb2.TokenLogprobs) -> "Logprobs":
        return cls(TokenLogprob.from_proto(message.chosen), tuple(map(TokenLogprob.from_proto, message.top)))


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one message brought for one sample. The last one of a sample has a finish reason."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[Logprobs, ...]
    finish_reason: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and seconds of one sample, as the server counted them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    queue_seconds: float
    load_seconds: float
    first_token_seconds: float
    total_seconds: float

    @classmethod
    def from_proto(cls, message: inference_pb2.Usage) -> "Usage":
        return cls(*(getattr(message, name) for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class Sample:
    """One whole answer. `finish_reason` is `stop` or `length`; `stop` is the stop string, if one ended it."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[Logprobs, ...]
    finish_reason: str
    stop: str
    seed: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class Result:
    """All samples of one request, and the version that answered (empty for the base)."""

    samples: tuple[Sample, ...]
    adapter_version: str
    adapter_digest: str

    @property
    def text(self) -> str:
        """The first sample's text."""
        return self.samples[0].text

    @property
    def seed(self) -> int:
        """The seed of the first sample; the same seed, prompt and adapter give the same tokens."""
        return self.samples[0].seed


@dataclass(frozen=True, slots=True)
class Model:
    """The base model that a server holds, and the server's limits."""

    name: str
    family: str
    quantization: str
    dtype: str
    vocab_size: int
    max_context: int
    max_rank: int
    adapter_slots: int
    cache_tokens: int
    has_chat_template: bool
    server_version: str

    @classmethod
    def from_proto(cls, message: inference_pb2.Model) -> "Model":
        return cls(*(getattr(message, name) for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One immutable set of weights under a name."""

    name: str
    version: int
    digest: str
    create_time: datetime
    size: int
    rank: int
    num_parameters: int
    base_model: str
    targets: tuple[str, ...]
    resident: bool
    kind: str
    pinned: str
    aliases: tuple[str, ...]
    base_mismatches: tuple[str, ...] = ()
    # What preparing it over the base has left, relative: of an update at most, and of logits, measured.
    update_error: float | None = None
    logit_error: float | None = None

    @property
    def id(self) -> str:
        """What requests call it: `name@3`."""
        return f"{self.name}@{self.version}"

    @classmethod
    def from_proto(cls, message: adapters_pb2.AdapterVersion) -> "AdapterVersion":
        return cls(
            name=message.name,
            version=message.version,
            digest=message.digest,
            create_time=message.create_time.ToDatetime(tzinfo=UTC),
            size=message.size,
            rank=message.rank,
            num_parameters=message.num_parameters,
            base_model=message.base_model,
            targets=tuple(message.targets),
            resident=message.resident,
            kind=message.kind,
            pinned=message.pinned,
            aliases=tuple(message.aliases),
            base_mismatches=tuple(message.base_mismatches),
            update_error=message.update_error if message.HasField("update_error") else None,
            logit_error=message.logit_error if message.HasField("logit_error") else None,
        )


def versions_from_proto(messages: Iterable[adapters_pb2.AdapterVersion]) -> tuple[AdapterVersion, ...]:
    """Versions in the server's order."""
    return tuple(map(AdapterVersion.from_proto, messages))
