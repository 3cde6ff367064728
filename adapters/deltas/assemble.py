"""Puts an adapter's normal form together from its tensors, place by place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from adapters.config_keys import MERGE
from adapters.deltas import pairs, products, weighted
from adapters.deltas.context import Context, Formula, Parts, Result, Setting
from adapters.deltas.tables import embedding_change, head_change
from adapters.errors import InvalidAdapter
from adapters.kinds.prompts import PROMPT
from adapters.normal import AdapterWeights, LinearChange, LowRank, Prefix
from adapters.plan import BIAS, SAVED, Plan
from adapters.shapes import EMBEDDING, HEAD
from adapters.tensor_check import MAX_DELTA

FORMULAS: dict[str, Formula] = {
    "lora": pairs.lora,
    "adalora": pairs.adalora,
    "ia3": pairs.ia3,
    "beft": pairs.beft,
    "vera": products.vera,
    "loha": products.loha,
    "lokr": products.lokr,
    "miss": products.miss,
    "delora": products.delora,
    "gralora": products.gralora,
    "vblora": products.vblora,
    "hira": weighted.hira,
    "hra": weighted.hra,
}
# Those whose updates are no pairs as they come, and are turned into some.
CONVERTED = FORMULAS.keys() - {"lora", "adalora", "ia3", "beft"}
_NORM_PARTS = (SAVED, "ln_tuning_layers.weight")
MAX_ERROR = 1e-3


def assemble(setting: Setting, tensors: Mapping[str, Tensor]) -> tuple[AdapterWeights, float]:
    """The normal form and the largest relative error of an update (0: exact).

    Raises InvalidAdapter where an update is not within MAX_ERROR of a pair that is served, or is no finite
    number.
    """
    grouped = _group(setting.plan, tensors)
    changes, error = _changes(setting, grouped)
    tables = {name: changes.pop(name, None) for name in (EMBEDDING, HEAD)}
    weights = AdapterWeights(
        linears=_with_biases(setting, changes, grouped),
        embedding=embedding_change(setting, tables[EMBEDDING], grouped),
        head=head_change(setting, tables[HEAD], grouped),
        norms=_norms(setting, grouped),
        prefix=_prefix(setting, grouped),
    )
    return weights, error


def _group(plan: Plan, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    grouped: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, claim in {**plan.optional, **plan.claims}.items():
        if name in tensors:
            grouped[claim.place][claim.part] = tensors[name]
    return grouped


class Updates:
    """What a kind does to its targets, computed for one after another."""

    def __init__(self, setting: Setting, grouped: Mapping[str, Parts]) -> None:
        self._setting = setting
        self._grouped = grouped
        self._formula = FORMULAS.get(setting.config.kind.name)
        self.targets = setting.plan.targets if self._formula is not None else {}
        self._shared = grouped.get("", {})
        if setting.config.kind.name == "vera" and not self._shared:
            sizes = [setting.shapes.size_of(name) for name in self.targets]
            widest = max(size[0] for size in sizes), max(size[1] for size in sizes)
            key = setting.config.options["projection_prng_key"]
            self._shared = products.drawn(key, setting.config.rank, widest)

    @classmethod
    def of(cls, setting: Setting, tensors: Mapping[str, Tensor]) -> Updates:
        return cls(setting, _group(setting.plan, tensors))

    def __call__(self, name: str) -> Result:
        """Of one of the targets."""
        assert self._formula is not None, "a kind without a formula has no targets"
        size = self._setting.shapes.size_of(name)
        context = Context(self._setting, name, self.targets[name], size, self._shared)
        return self._formula(self._grouped[name], context)


def _changes(setting: Setting, grouped: Mapping[str, Parts]) -> tuple[dict[str, LinearChange], float]:
    updates = Updates(setting, grouped)
    changes, worst = {}, 0.0
    for name in updates.targets:
        result = _checked(name, updates(name), setting.max_rank)
        worst = max(worst, result.error)
        if _is_change(result.change):
            changes[name] = result.change
    return changes, worst


def _is_change(change: LinearChange) -> bool:
    return any(part is not None for part in (change.low_rank, change.gain, change.bias, change.input_gain))


def _checked(name: str, result: Result, max_rank: int) -> Result:
    if not result.error <= MAX_ERROR:
        raise InvalidAdapter(
            [
                f"the update of {name} is {result.error:.2g} off its nearest pair of rank {max_rank}, and at "
                f"most {MAX_ERROR:g} is served; {MERGE}"
            ]
        )
    pair, vectors = result.change.low_rank, (result.change.gain, result.change.bias)
    if not all(vector.isfinite().all() for vector in vectors if vector is not None):
        raise InvalidAdapter([f"the weights of {name} make no finite numbers over this base"])
    if pair is not None and pair.rank == 0:
        return replace(result, change=replace(result.change, low_rank=None))
    if pair is not None and not _largest(pair) <= MAX_DELTA:
        raise InvalidAdapter(
            [f"the weights of {name} are too large to be a trained update (bound {MAX_DELTA:g})"]
        )
    return result


def _largest(pair: LowRank) -> float:
    """A bound on every entry of B A; not a number if any factor is not."""
    return float(pair.a.abs().max().float() * pair.b.abs().max().float()) * pair.rank


def _with_biases(
    setting: Setting, changes: dict[str, LinearChange], grouped: Mapping[str, Parts]
) -> dict[str, LinearChange]:
    """The constant that the normal form adds so that the whole of it is what PEFT adds.

    PEFT: g * (W x + B A x) + bias, with the base's bias or the trained one in its place, never times g.
    """
    for name in dict.fromkeys([*changes, *(place for place in grouped if BIAS in grouped[place])]):
        change, trained = changes.get(name, LinearChange()), grouped[name].get(BIAS)
        is_dora = change.gain is not None and change.low_rank is not None
        if trained is None and not (is_dora and name in setting.shapes.biases):
            continue
        own = setting.bias(name)
        kept = own if change.gain is None else change.gain * own
        bias = (own if trained is None else trained.float()) - kept
        changes[name] = replace(change, bias=bias if change.bias is None else change.bias + bias)
    return changes


def _norms(setting: Setting, grouped: Mapping[str, Parts]) -> dict[str, Tensor]:
    return {
        name: grouped[name][part]
        for name in setting.shapes.norms
        for part in _NORM_PARTS
        if name in grouped and part in grouped[name]
    }


def _prefix(setting: Setting, grouped: Mapping[str, Parts]) -> Prefix | None:
    prompt = grouped.get("", {}).get(PROMPT)
    if prompt is None:
        return None
    if not setting.config.kind.fills_cache:
        return Prefix(embeddings=prompt)
    shapes = setting.shapes
    # PEFT keeps [n, layers * (key, value) * heads * width]; the cache holds layers first.
    by_layer = prompt.reshape(len(prompt), shapes.num_layers, 2, shapes.num_kv_heads, shapes.head_dim)
    return Prefix(keys_values=by_layer.permute(1, 2, 0, 3, 4).contiguous())
