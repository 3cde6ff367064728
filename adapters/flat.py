"""An adapter's weights as named tensors and back: what is written beside its files, and what is cast."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from adapters.normal import (
    AdapterWeights,
    EmbeddingChange,
    HeadChange,
    LinearChange,
    LowRank,
    Prefix,
    TokenRows,
)

T = TypeVar("T")
Part = LinearChange | EmbeddingChange | HeadChange | Prefix | LowRank | TokenRows
# No module's name has one.
_SEPARATOR = "/"
_IDS = f"{_SEPARATOR}ids"
_LINEARS = f"linears{_SEPARATOR}"
_PAIR = f"{_SEPARATOR}low_rank{_SEPARATOR}"


def flatten(weights: AdapterWeights) -> dict[str, Tensor]:
    """linears/<name>/low_rank/a and so on, for what is there."""
    found = {f"norms{_SEPARATOR}{name}": tensor for name, tensor in weights.norms.items()}
    parts: dict[str, Part | None] = {f"{_LINEARS}{name}": part for name, part in weights.linears.items()}
    parts |= {"embedding": weights.embedding, "head": weights.head, "prefix": weights.prefix}
    for name, part in parts.items():
        if part is not None:
            found |= dict(_walk(name, part))
    return found


def unflatten(tensors: Mapping[str, Tensor]) -> AdapterWeights:
    """The inverse; raises ValueError for names that `flatten` does not make."""
    tree: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        top, _, rest = name.partition(_SEPARATOR)
        tree[top][rest] = tensor
    linears: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tree.pop("linears", {}).items():
        linear, _, rest = name.partition(_SEPARATOR)
        linears[linear][rest] = tensor
    norms = tree.pop("norms", {})
    makers = {"embedding": EmbeddingChange, "head": HeadChange, "prefix": Prefix}
    if not set(tree) <= set(makers):
        raise ValueError(f"no part of an adapter: {sorted(set(tree) - set(makers))}")
    made: dict[str, Any] = {name: _make(makers[name], parts) for name, parts in tree.items()}
    changes = {name: _make(LinearChange, parts) for name, parts in linears.items()}
    return AdapterWeights(linears=changes, norms=norms, **made)


def cast(weights: AdapterWeights, dtype: torch.dtype) -> AdapterWeights:
    """Pairs and tables in `dtype`; the vectors of linears in float32, and token ids as they are."""
    return unflatten({name: _cast(name, tensor, dtype) for name, tensor in flatten(weights).items()})


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if name.endswith(_IDS):
        return tensor
    is_vector = name.startswith(_LINEARS) and _PAIR not in name
    return tensor.to(torch.float32 if is_vector else dtype)


def _walk(name: str, part: Part) -> Iterator[tuple[str, Tensor]]:
    for field in part.__dataclass_fields__:
        value = getattr(part, field)
        if isinstance(value, Tensor):
            yield f"{name}{_SEPARATOR}{field}", value
        elif value is not None:
            yield from _walk(f"{name}{_SEPARATOR}{field}", value)


def _make(kind: Callable[..., T], parts: Mapping[str, Tensor]) -> T:
    fields: dict[str, dict[str, Tensor] | Tensor] = {}
    for name, tensor in parts.items():
        field, _, rest = name.partition(_SEPARATOR)
        if rest:
            inner = fields.setdefault(field, {})
            assert isinstance(inner, dict)
            inner[rest] = tensor
        else:
            fields[field] = tensor
    inside: dict[str, Callable[..., Any]] = {"low_rank": LowRank, "rows": TokenRows}
    try:
        return kind(
            **{
                name: inside[name](**value) if isinstance(value, dict) else value
                for name, value in fields.items()
            }
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"no parts of an adapter: {sorted(parts)}") from error
