"""Random adapters in normal form, and what they mean: the base's own modules in transformers, each replaced.

The oracle knows nothing of slots, packs or blobs: it is the equations of adapters/normal.py over one model.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adapters.normal import (
    AdapterWeights,
    EmbeddingChange,
    HeadChange,
    LinearChange,
    LowRank,
    Prefix,
    TokenRows,
)
from server.model.config import ModelConfig

NUM_VIRTUAL = 5
ADDED = 3
Make = Callable[[ModelConfig, torch.Generator], AdapterWeights]


def _normal(generator: torch.Generator, *shape: int, spread: float = 0.1, middle: float = 0.0) -> Tensor:
    return middle + spread * torch.randn(*shape, generator=generator)


def _pair(generator: torch.Generator, out: int, width: int, rank: int = 4) -> LowRank:
    return LowRank(_normal(generator, rank, width), _normal(generator, out, rank))


def _linears(*wanted: str, part: str = "") -> Make:
    """Every linear whose name has `part`, with the fields that are wanted."""

    def make(config: ModelConfig, g: torch.Generator) -> AdapterWeights:
        changes = {}
        for name, (out, width) in config.linear_shapes().items():
            if part in name:
                changes[name] = LinearChange(
                    low_rank=_pair(g, out, width) if "pair" in wanted else None,
                    gain=_normal(g, out, middle=1.0) if "gain" in wanted else None,
                    bias=_normal(g, out) if "bias" in wanted else None,
                    input_gain=_normal(g, width, middle=1.0) if "input" in wanted else None,
                )
        return AdapterWeights(changes)

    return make


def _rows(g: torch.Generator, config: ModelConfig, *ids: int) -> TokenRows:
    return TokenRows(torch.tensor(ids), _normal(g, len(ids), config.hidden_size, spread=0.3))


def _norms(config: ModelConfig, g: torch.Generator) -> AdapterWeights:
    names = ["model.norm"]
    for layer in range(config.num_layers):
        names += [f"model.layers.{layer}.{n}" for n in ("input_layernorm", "post_attention_layernorm")]
    norms = {name: _normal(g, config.hidden_size, middle=1.0, spread=0.3) for name in names}
    if config.qk_norm:
        for layer in range(config.num_layers):
            for each in ("q", "k"):
                weight = _normal(g, config.head_dim, middle=1.0, spread=0.3)
                norms[f"model.layers.{layer}.self_attn.{each}_norm"] = weight
    return AdapterWeights({}, norms=norms)


def _added(config: ModelConfig, g: torch.Generator) -> AdapterWeights:
    ids = range(config.vocab_size, config.vocab_size + ADDED)
    # Strong rows, so that the added tokens are said.
    head = TokenRows(torch.tensor(ids), _normal(g, ADDED, config.hidden_size, spread=0.5))
    return AdapterWeights({}, EmbeddingChange(rows=_rows(g, config, 3, 7, *ids)), HeadChange(rows=head))


def _wider(config: ModelConfig, g: torch.Generator) -> AdapterWeights:
    shape = (config.vocab_size + ADDED, config.hidden_size)
    head = HeadChange(full=_normal(g, *shape, spread=0.2), bias=_normal(g, shape[0]))
    return AdapterWeights({}, EmbeddingChange(full=_normal(g, *shape, spread=0.2)), head)


def _low_rank_tables(config: ModelConfig, g: torch.Generator) -> AdapterWeights:
    vocab, hidden = config.vocab_size, config.hidden_size
    embedding = LowRank(_normal(g, 4, vocab), _normal(g, hidden, 4))
    return AdapterWeights({}, EmbeddingChange(embedding), HeadChange(_pair(g, vocab, hidden)))


def _prompt(config: ModelConfig, g: torch.Generator) -> AdapterWeights:
    embeddings = _normal(g, NUM_VIRTUAL, config.hidden_size, spread=0.3)
    return AdapterWeights({}, prefix=Prefix(embeddings=embeddings))


def _keys(config: ModelConfig, g: torch.Generator) -> AdapterWeights:
    shape = (config.num_layers, 2, NUM_VIRTUAL, config.num_kv_heads, config.head_dim)
    return AdapterWeights({}, prefix=Prefix(keys_values=_normal(g, *shape, spread=0.5)))


KINDS: dict[str, Make] = {
    "pair": _linears("pair"),
    "gain": _linears("pair", "gain", "bias"),
    "gain-of-some": _linears("gain", part=".1.self_attn.v_proj"),
    "bias": _linears("bias", part="mlp"),
    "input-of-down": _linears("input", part="down_proj"),
    "input-of-fused": _linears("input", "gain", part="k_proj"),
    "input-of-all": _linears("input"),
    "low-rank-tables": _low_rank_tables,
    "added": _added,
    "wider": _wider,
    "norms": _norms,
    "prompt": _prompt,
    "keys": _keys,
}


def weights_of(kind: str, config: ModelConfig) -> AdapterWeights:
    """The same every time."""
    return KINDS[kind](config, torch.Generator().manual_seed(1 + list(KINDS).index(kind)))


class _Changed(nn.Module):
    def __init__(self, linear: nn.Linear, change: LinearChange) -> None:
        super().__init__()
        self.linear, self.change = linear, change

    def forward(self, x: Tensor) -> Tensor:
        change = self.change
        y = self.linear(x if change.input_gain is None else x * change.input_gain)
        if change.low_rank is not None:
            y = y + x @ change.low_rank.a.T @ change.low_rank.b.T
        y = y if change.gain is None else y * change.gain
        return y if change.bias is None else y + change.bias


def apply(model: PreTrainedModel, weights: AdapterWeights) -> PreTrainedModel:
    """The model as the adapter makes it, but for its prefix."""
    for name, change in weights.linears.items():
        model.set_submodule(name, _Changed(model.get_submodule(name), change))
    for name, weight in weights.norms.items():
        model.get_submodule(name).weight = nn.Parameter(weight.clone())
    embedding, head = (
        model.get_input_embeddings().weight.detach(),
        model.get_output_embeddings().weight.detach(),
    )
    model.set_input_embeddings(nn.Embedding.from_pretrained(_table(embedding, weights.embedding)))
    table = _table(head, weights.head)
    lm_head = nn.Linear(table.shape[1], table.shape[0], bias=True)
    bias = weights.head.bias if weights.head is not None and weights.head.bias is not None else None
    lm_head.weight = nn.Parameter(table)
    lm_head.bias = nn.Parameter(torch.zeros(table.shape[0]) if bias is None else bias)
    model.set_output_embeddings(lm_head)
    return model.eval()


def _table(base: Tensor, change: EmbeddingChange | HeadChange | None) -> Tensor:
    """[vocab, hidden] as changed."""
    if change is None:
        return base.clone()
    table = (base if change.full is None else change.full).clone()
    if change.low_rank is not None:
        update = change.low_rank.b @ change.low_rank.a
        table += update.T if isinstance(change, EmbeddingChange) else update
    if change.rows is not None:
        grown = torch.zeros(max(table.shape[0], int(change.rows.ids[-1]) + 1), table.shape[1])
        grown[: table.shape[0]] = table
        grown[change.rows.ids] = change.rows.rows
        table = grown
    return table


@torch.inference_mode()
def greedy_answer(
    model: PreTrainedModel, weights: AdapterWeights, prompt: list[int], num_tokens: int
) -> tuple[list[int], Tensor]:
    """Greedy tokens after a prompt, prefix and all, and the logits [num_tokens, vocab] they come from."""
    embed, cache, said, rows = model.get_input_embeddings(), None, [], []
    inputs: Any = embed(torch.tensor([prompt]))
    prefix = weights.prefix
    if prefix is not None and prefix.embeddings is not None:
        inputs = torch.cat((prefix.embeddings[None], inputs), dim=1)
    if prefix is not None and prefix.keys_values is not None:
        from transformers import DynamicCache

        cache = DynamicCache(config=model.config)
        for layer, (keys, values) in enumerate(prefix.keys_values.transpose(2, 3)):
            cache.update(keys[None], values[None], layer)
    for _ in range(num_tokens):
        out = model(inputs_embeds=inputs, cache=cache, use_cache=True)
        cache = out.past_key_values
        rows.append(out.logits[0, -1])
        said.append(int(rows[-1].argmax()))
        inputs = embed(torch.tensor([[said[-1]]]))
    return said, torch.stack(rows)
