"""The embedding and the head: pairs, whole tables, and single rows, as PEFT applies them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from adapters.deltas.context import Parts, Setting
from adapters.errors import InvalidAdapter
from adapters.kinds.tokens import ROWS
from adapters.normal import EmbeddingChange, HeadChange, LinearChange, TokenRows
from adapters.plan import CARRIED, SAVED
from adapters.shapes import EMBEDDING, HEAD, BaseShapes

Rows = dict[int, Tensor]
Table = tuple[Tensor | None, Rows]


def embedding_change(
    setting: Setting, change: LinearChange | None, grouped: Mapping[str, Parts]
) -> EmbeddingChange | None:
    """What the adapter does to the input embedding, None for nothing."""
    full, rows = _table(setting, EMBEDDING, grouped)
    pair = change.low_rank if change else None
    if change is not None and change.gain is not None:
        full, pair = _scaled_embedding(setting, change), None
    if full is None and pair is None and not rows:
        return None
    return EmbeddingChange(pair, full, _token_rows(rows))


def head_change(
    setting: Setting, change: LinearChange | None, grouped: Mapping[str, Parts]
) -> HeadChange | None:
    """What it does to the head. A tied head follows the embedding's rows unless it trained its own."""
    full, rows = _table(setting, HEAD, grouped)
    if setting.shapes.tied and full is None:
        _require_one_table(setting, grouped)
        if ROWS not in grouped.get(HEAD, {}):
            rows |= _shared_rows(setting, grouped)
    pair, bias = (change.low_rank, change.bias) if change else (None, None)
    if change is not None and change.gain is not None:
        full, pair = _scaled_head(setting, change), None
    if full is None and pair is None and bias is None and not rows:
        return None
    return HeadChange(pair, full, _token_rows(rows), bias)


def _table(setting: Setting, name: str, grouped: Mapping[str, Parts]) -> Table:
    parts = grouped.get(name, {})
    full, rows = _saved(parts, setting.shapes)
    if CARRIED in parts:
        rows |= _differing(parts[CARRIED], setting.weight(name))
    if ROWS in parts:
        rows |= dict(zip(setting.plan.token_ids[name], parts[ROWS], strict=True))
    return full, rows


def _saved(parts: Parts, shapes: BaseShapes) -> Table:
    """A table of modules_to_save; what it has beyond the base's vocabulary are rows."""
    if SAVED not in parts:
        return None, {}
    table = parts[SAVED]
    grown = range(shapes.vocab_size, table.shape[0])
    return table[: shapes.vocab_size], {token: table[token] for token in grown}


def _shared_rows(setting: Setting, grouped: Mapping[str, Parts]) -> Rows:
    """PEFT hangs trained tokens, and a resized table, on both ends of a tied pair; saved modules on one."""
    parts = {part: tensor for part, tensor in grouped.get(EMBEDDING, {}).items() if part != SAVED}
    return _table(setting, EMBEDDING, {EMBEDDING: parts})[1]


def _require_one_table(setting: Setting, grouped: Mapping[str, Parts]) -> None:
    """Raises InvalidAdapter where both ends of a tied pair came with the same tokens and other rows."""
    (ids, rows), (own_ids, own) = (
        (setting.plan.token_ids.get(name), grouped.get(name, {}).get(ROWS)) for name in (EMBEDDING, HEAD)
    )
    if rows is not None and own is not None and ids == own_ids and not torch.equal(rows, own):
        raise InvalidAdapter(
            [
                "the trained tokens of embed_tokens and lm_head differ, and this base has one table for both;"
                " save the adapter again over a base with tied weights"
            ]
        )


def _differing(carried: Tensor, own: Tensor) -> Rows:
    """PEFT saves the base's table along; what matters are rows that the served base does not have."""
    same = carried[: own.shape[0]].to(own.dtype) == own.to(carried.device)
    changed = (~same.all(dim=1)).nonzero().flatten().tolist()
    return {token: carried[token] for token in (*changed, *range(own.shape[0], carried.shape[0]))}


def _token_rows(rows: Rows) -> TokenRows | None:
    if not rows:
        return None
    ids = sorted(rows)
    return TokenRows(torch.tensor(ids, dtype=torch.int64), torch.stack([rows[token] for token in ids]))


def _scaled_embedding(setting: Setting, change: LinearChange) -> Tensor:
    """[vocab, hidden]: DoRA's gain is one for each hidden dimension, of the whole table."""
    pair, gain = change.low_rank, change.gain
    assert pair is not None and gain is not None, "DoRA has both"
    return gain * (setting.weight(EMBEDDING) + (pair.b @ pair.a.float()).T)


def _scaled_head(setting: Setting, change: LinearChange) -> Tensor:
    pair, gain = change.low_rank, change.gain
    assert pair is not None and gain is not None, "DoRA has both"
    return gain[:, None] * (setting.weight(HEAD) + pair.b @ pair.a.float())
