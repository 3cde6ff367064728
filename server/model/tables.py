"""What an adapter brings beside its linears, as named tensors and back.

Embedding, head, norms and prefix are few and large: in a blob they stand as tables, whole.
"""

from collections.abc import Mapping

from torch import Tensor

from adapters.normal import AdapterWeights, EmbeddingChange, HeadChange, LowRank, Prefix, TokenRows

NORM = "norm/"


def to_tables(weights: AdapterWeights) -> dict[str, Tensor]:
    """Name -> tensor of all that is there."""
    tables: dict[str, Tensor | None] = {}
    for name, change in (("embedding", weights.embedding), ("head", weights.head)):
        if change is None:
            continue
        tables[f"{name}/full"] = change.full
        if change.low_rank is not None:
            # Of an embedding a token's column of A is wanted, and columns stand apart in memory.
            a = change.low_rank.a
            tables[f"{name}/a"] = a.T if name == "embedding" else a
            tables[f"{name}/b"] = change.low_rank.b
        if change.rows is not None:
            tables[f"{name}/ids"], tables[f"{name}/rows"] = change.rows.ids, change.rows.rows
    if weights.head is not None:
        tables["head/bias"] = weights.head.bias
    if weights.prefix is not None:
        tables["prefix/embeddings"] = weights.prefix.embeddings
        tables["prefix/keys_values"] = weights.prefix.keys_values
    tables.update({NORM + name: weight for name, weight in weights.norms.items()})
    return {name: table for name, table in tables.items() if table is not None}


def from_tables(tables: Mapping[str, Tensor]) -> AdapterWeights:
    """What `to_tables` was given, but for its linears."""
    embedding, head, prefix = (
        {key.partition("/")[2]: tables[key] for key in tables if key.startswith(f"{part}/")}
        for part in ("embedding", "head", "prefix")
    )
    return AdapterWeights(
        linears={},
        embedding=_embedding(embedding) if embedding else None,
        head=_head(head) if head else None,
        norms={key.removeprefix(NORM): tables[key] for key in tables if key.startswith(NORM)},
        prefix=Prefix(**prefix) if prefix else None,
    )


def vocab_size(weights: AdapterWeights, of_base: int) -> int:
    """Tokens that the adapter knows, those of the base included."""
    return max(
        (_size(change, of_base) for change in (weights.embedding, weights.head) if change), default=of_base
    )


def _embedding(tables: Mapping[str, Tensor]) -> EmbeddingChange:
    low_rank = LowRank(tables["a"].T, tables["b"]) if "a" in tables else None
    return EmbeddingChange(low_rank, tables.get("full"), _rows(tables))


def _head(tables: Mapping[str, Tensor]) -> HeadChange:
    low_rank = LowRank(tables["a"], tables["b"]) if "a" in tables else None
    return HeadChange(low_rank, tables.get("full"), _rows(tables), tables.get("bias"))


def _rows(tables: Mapping[str, Tensor]) -> TokenRows | None:
    return TokenRows(tables["ids"], tables["rows"]) if "ids" in tables else None


def _size(change: EmbeddingChange | HeadChange, of_base: int) -> int:
    size = of_base if change.full is None else change.full.shape[0]
    return size if change.rows is None else max(size, int(change.rows.ids[-1]) + 1)
