"""The normal form, into which every kind is turned exactly and which is all that is served.

y = gain * (W (input_gain * x) + b_base + B A x) + bias,   A: [rank, in],   B: [out, rank], scale folded in
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """a: [rank, in_features]; b: [out_features, rank], with the scale folded in."""

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True)
class LinearChange:
    """y = gain * (W (input_gain * x) + b_base + B A x) + bias; what is None changes nothing.

    DoRA: gain = m / ||W + B A||_row, bias = (1 - gain) * b_base, because PEFT leaves the base's bias
    unscaled. IA3: gain = l, which scales the base's bias too, or input_gain = l for feed-forward linears.
    An adapter never has both input_gain and low_rank at one linear.
    """

    low_rank: LowRank | None = None
    gain: Tensor | None = None  # [out]
    bias: Tensor | None = None  # [out], added after the gain
    input_gain: Tensor | None = None  # [in]


@dataclass(frozen=True)
class TokenRows:
    """Rows that replace those of a table, or extend it where an id is beyond the base's vocabulary."""

    ids: Tensor  # [n] int64, ascending
    rows: Tensor  # [n, hidden]


@dataclass(frozen=True)
class EmbeddingChange:
    """Of the input embedding: `full` instead of the base's, `low_rank` added, `rows` instead of all that.

    The pair adds b @ a[:, t] to token t: a [rank, vocab], b [hidden, rank].
    """

    low_rank: LowRank | None = None
    full: Tensor | None = None  # [vocab, hidden]
    rows: TokenRows | None = None


@dataclass(frozen=True)
class HeadChange:
    """Of the head, in the same order: a [rank, hidden], b [vocab, rank].

    A token beyond the base's vocabulary that has no row here cannot be generated.
    """

    low_rank: LowRank | None = None
    full: Tensor | None = None  # [vocab, hidden]
    rows: TokenRows | None = None
    bias: Tensor | None = None  # [vocab]


@dataclass(frozen=True)
class Prefix:
    """Virtual tokens before every prompt. Exactly one is set."""

    embeddings: Tensor | None = None  # [n, hidden]
    keys_values: Tensor | None = None  # [layers, 2, n, kv_heads, head_dim], keys as the cache holds them


@dataclass(frozen=True)
class AdapterWeights:
    """One adapter, by the checkpoint's names of the modules that it changes."""

    linears: dict[str, LinearChange] = field(default_factory=dict)
    embedding: EmbeddingChange | None = None
    head: HeadChange | None = None
    norms: dict[str, Tensor] = field(default_factory=dict)
    prefix: Prefix | None = None

    def pairs(self) -> dict[str, LowRank] | None:
        """Its low-rank pairs if it is nothing but those."""
        if self.embedding or self.head or self.norms or self.prefix:
            return None
        pairs = {}
        for name, change in self.linears.items():
            rest = (change.gain, change.bias, change.input_gain)
            if change.low_rank is None or any(part is not None for part in rest):
                return None
            pairs[name] = change.low_rank
        return pairs
