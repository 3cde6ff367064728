"""What an adapter may do and no weight of its base can hold."""

from __future__ import annotations

from collections.abc import Iterator

from adapters.merge.changes import Changes
from adapters.merge.errors import MergeRefused
from adapters.normal import AdapterWeights, EmbeddingChange, HeadChange
from adapters.shapes import EMBEDDING, HEAD, BaseShapes


def check_mergeable(changes: Changes, shapes: BaseShapes) -> None:
    """Raises MergeRefused with everything that cannot become a weight."""
    weights = changes.weights
    problems = [] if weights.prefix is None else [_PREFIX]
    problems += [*_biases(weights, shapes), *_added_tokens(weights, shapes)]
    if problems:
        raise MergeRefused("This adapter cannot be merged: " + "; ".join(problems))


_PREFIX = "its virtual tokens stand before every prompt and change no weight; serve it as an adapter"


def _biases(weights: AdapterWeights, shapes: BaseShapes) -> Iterator[str]:
    changed = [
        name for name, change in weights.linears.items() if change.bias is not None and change.bias.any()
    ]
    homeless = [name for name in changed if name not in shapes.biases]
    if weights.head is not None and weights.head.bias is not None and weights.head.bias.any():
        homeless.append(HEAD)
    if homeless:
        yield (
            f"it adds biases to {len(homeless)} linears that have none in this base, such as {homeless[0]}; "
            "serve it as an adapter, or train without them"
        )


def _added_tokens(weights: AdapterWeights, shapes: BaseShapes) -> Iterator[str]:
    """Both tables must grow by the same tokens, without a gap."""
    added = {
        EMBEDDING: _beyond(weights.embedding, shapes.vocab_size),
        HEAD: _beyond(weights.head, shapes.vocab_size),
    }
    if added[EMBEDDING] != added[HEAD]:
        fewer, more = sorted(added, key=lambda table: len(added[table]))
        yield f"it adds other tokens to {more} than to {fewer}; train both, to read and to write them"
    for table, tokens in added.items():
        if tokens != list(range(shapes.vocab_size, shapes.vocab_size + len(tokens))):
            yield f"the tokens that it adds to {table} leave a gap after the base's {shapes.vocab_size}"


def _beyond(change: EmbeddingChange | HeadChange | None, vocab_size: int) -> list[int]:
    if change is None or change.rows is None:
        return []
    return [token for token in change.rows.ids.tolist() if token >= vocab_size]
