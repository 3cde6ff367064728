"""What an adapter is checked against: the base's modules, and the places in it that an adapter changes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"
# Tokens that one adapter may add; logits of all sequences in a step get as many more columns.
MAX_ADDED_TOKENS = 8192


@dataclass(frozen=True)
class BaseShapes:
    """The base's linears: full name such as `model.layers.0.mlp.up_proj` -> (out_features, in_features).

    `biases` are the linears that have one, `norms` maps a norm's full name to its size. A `vocab_size` of 0
    says that the server serves no adapter that changes the embedding or the head, a `num_kv_heads` of 0
    none with a prefix. `fingerprint`, `quantization` and the hashes of its tokenizer are "" where they are
    not known.
    """

    linears: dict[str, tuple[int, int]]
    biases: frozenset[str] = frozenset()
    norms: dict[str, int] = field(default_factory=dict)
    vocab_size: int = 0
    hidden_size: int = 0
    tied: bool = False
    num_layers: int = 0
    num_kv_heads: int = 0
    head_dim: int = 0
    fingerprint: str = ""
    quantization: str = ""
    tokenizer_sha256: str = ""
    chat_template_sha256: str = ""

    @property
    def tables(self) -> tuple[str, ...]:
        """The embedding and the head, where adapters may change them."""
        return (EMBEDDING, HEAD) if self.vocab_size else ()

    def size_of(self, place: str) -> tuple[int, int]:
        """(out_features, in_features) of a linear, or (vocab, hidden) of a table."""
        return self.linears.get(place, (self.vocab_size, self.hidden_size))

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps({**asdict(self), "biases": sorted(self.biases)})

    @staticmethod
    def from_json(text: str) -> BaseShapes:
        """Reads what `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        fields["linears"] = {name: (shape[0], shape[1]) for name, shape in fields["linears"].items()}
        fields["biases"] = frozenset(fields["biases"])
        return BaseShapes(**fields)


@dataclass(frozen=True)
class Target:
    """One changed place: the update's rank as the trainer set it (0 where there is none), and its factor."""

    rank: int
    scale: float


@dataclass(frozen=True)
class Site:
    """A targeted place with all that decides the tensors it has in the file."""

    name: str
    out_features: int
    in_features: int
    target: Target


@dataclass(frozen=True)
class Claim:
    """One tensor that the configuration calls for: which part it is of which place, and its shape.

    `grows` lets the first dimension be larger, as in the tables of a vocabulary with added tokens.
    """

    place: str
    part: str
    shape: tuple[int, ...]
    grows: bool = False

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape is what is called for."""
        if self.grows and len(shape) == len(self.shape):
            return 0 <= shape[0] - self.shape[0] <= MAX_ADDED_TOKENS and shape[1:] == self.shape[1:]
        return shape == self.shape
