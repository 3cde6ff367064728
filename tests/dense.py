"""The normal form applied to a transformers model in the plainest way: the reference of what it means."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from adapters.deltas.context import Base
from adapters.normal import AdapterWeights, EmbeddingChange, HeadChange, LinearChange, LowRank, TokenRows
from adapters.shapes import EMBEDDING, HEAD, BaseShapes


def base_of(model: PreTrainedModel, fingerprint: str = "0" * 64) -> Base:
    """The base as a server describes it."""
    modules = {name: module for name, module in model.named_modules() if name != HEAD}
    linears = {name: module for name, module in modules.items() if isinstance(module, nn.Linear)}
    config, table = model.config, model.get_input_embeddings().weight
    shapes = BaseShapes(
        linears={name: (linear.out_features, linear.in_features) for name, linear in linears.items()},
        biases=frozenset(name for name, linear in linears.items() if linear.bias is not None),
        norms={
            name: module.weight.shape[0]
            for name, module in modules.items()
            if "norm" in name.rpartition(".")[2]
        },
        vocab_size=table.shape[0],
        hidden_size=table.shape[1],
        tied=bool(config.tie_word_embeddings),
        num_layers=config.num_hidden_layers,
        num_kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        fingerprint=fingerprint,
        quantization="none",
    )
    weight = lambda name: model.get_submodule(name).weight.detach()  # noqa: E731
    bias = lambda name: model.get_submodule(name).bias.detach()  # noqa: E731
    return Base(shapes, weight, bias)


def apply(model: PreTrainedModel, weights: AdapterWeights) -> PreTrainedModel:
    """Writes all but the prefix into the model's own weights, each part where it says it belongs."""
    table, head = model.get_submodule(EMBEDDING).weight.data, model.get_submodule(HEAD).weight.data
    for name, change in weights.linears.items():
        _apply_linear(model.get_submodule(name), change)
    for name, norm in weights.norms.items():
        model.get_submodule(name).weight.data = norm
    # Apart, because a tied pair need not stay one.
    model.get_submodule(EMBEDDING).weight = nn.Parameter(_embedding(table, weights.embedding))
    model.get_submodule(HEAD).weight = nn.Parameter(_head(head, weights.head))
    if weights.head is not None and weights.head.bias is not None:
        model.get_submodule(HEAD).bias = nn.Parameter(weights.head.bias)
    return model


@torch.inference_mode()
def logits(model: PreTrainedModel, weights: AdapterWeights, ids: Tensor) -> Tensor:
    """[batch, length, vocab] of the ids, behind the adapter's virtual tokens where it has some."""
    apply(model, weights)
    prefix = weights.prefix
    if prefix is None:
        return plain(model, input_ids=ids)
    if prefix.embeddings is not None:
        virtual = prefix.embeddings[None].expand(len(ids), -1, -1)
        inputs = torch.cat([virtual, model.get_input_embeddings()(ids)], dim=1)
        return plain(model, inputs_embeds=inputs)[:, virtual.shape[1] :]
    assert prefix.keys_values is not None
    cache: Any = DynamicCache()
    for layer, pair in enumerate(prefix.keys_values):
        keys, values = (part.transpose(0, 1)[None].expand(len(ids), -1, -1, -1) for part in pair)
        cache.update(keys, values, layer)
    return plain(model, input_ids=ids, past_key_values=cache)


def plain(model: PreTrainedModel, **inputs: Any) -> Tensor:
    """[batch, length, vocab]."""
    found: Tensor = model(**inputs).logits
    return found


def _apply_linear(linear: Any, change: LinearChange) -> None:
    out = linear.out_features
    gain = torch.ones(out) if change.gain is None else change.gain
    weight = linear.weight.data if change.input_gain is None else linear.weight.data * change.input_gain
    bias = torch.zeros(out) if linear.bias is None else linear.bias.data
    linear.weight.data = gain[:, None] * (weight + _delta(change.low_rank))
    linear.bias = nn.Parameter(gain * bias + (0 if change.bias is None else change.bias))


def _delta(pair: LowRank | None) -> Tensor | float:
    return 0.0 if pair is None else pair.b @ pair.a


def _embedding(table: Tensor, change: EmbeddingChange | None) -> Tensor:
    if change is None:
        return table.clone()
    pair = change.low_rank
    full = table if change.full is None else change.full
    return _with_rows(full if pair is None else full + (pair.b @ pair.a).T, change.rows)


def _head(table: Tensor, change: HeadChange | None) -> Tensor:
    if change is None:
        return table.clone()
    full = table if change.full is None else change.full
    return _with_rows(full + _delta(change.low_rank), change.rows)


def _with_rows(table: Tensor, rows: TokenRows | None) -> Tensor:
    if rows is None:
        return table.clone()
    missing = max(int(rows.ids[-1]) + 1 - len(table), 0)
    longer = torch.cat([table, table.new_zeros(missing, table.shape[1])])
    longer[rows.ids] = rows.rows
    return longer
