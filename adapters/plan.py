"""What the configuration calls for over this base: every place that changes, every tensor of the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from adapters.config_keys import MERGE
from adapters.kinds.tokens import PREFIX, ROWS
from adapters.peft_config import AdapterConfig
from adapters.shapes import EMBEDDING, HEAD, MAX_ADDED_TOKENS, BaseShapes, Claim, Site, Target
from adapters.strict_json import show
from adapters.targets import find_all, saves

SAVED = "weight"
BIAS = "bias"
CARRIED = "carried table"
_NOT_OFFERED = (
    "this server does not serve adapters that change the embedding, the head or the prompt; " + MERGE
)


@dataclass(frozen=True)
class Plan:
    """`claims` must be in the file, `optional` may; together they are all that may be in it.

    `token_ids` are the ids of the rows at each table, in the order of the file.
    """

    targets: dict[str, Target]
    claims: dict[str, Claim] = field(default_factory=dict)
    optional: dict[str, Claim] = field(default_factory=dict)
    token_ids: dict[str, tuple[int, ...]] = field(default_factory=dict)


def make_plan(config: AdapterConfig, base: BaseShapes, problems: list[str]) -> Plan:
    """Never raises: what cannot be planned is a problem."""
    plan = Plan(find_all(config, base))
    _check_masks(config, plan, problems)
    _claim_parts(config, base, plan, problems)
    _claim_saved(config, base, plan, problems)
    _claim_biases(config, base, plan)
    _claim_token_rows(config, base, plan, problems)
    _claim_carried(plan, base)
    return plan


def tensor_name(place: str, part: str) -> str:
    """The name in the file of a part of a place."""
    return f"{PREFIX}{place}.{part}"


def _check_masks(config: AdapterConfig, plan: Plan, problems: list[str]) -> None:
    """AdaLoRA's, each of which is of one place that the adapter changes."""
    masks = config.options.get("rank_pattern") or {}
    strange = sorted(set(masks) - {f"{name}.lora_E" for name in plan.targets})
    problems.extend(f"rank_pattern holds {show(name)}, which is no target in this base" for name in strange)


def _add(plan: Plan, name: str, claim: Claim, problems: list[str]) -> None:
    if name in plan.claims:
        problems.append(f"{show(name)} would be two things at once; change a module in one way only")
    plan.claims[name] = claim


def _claim_parts(config: AdapterConfig, base: BaseShapes, plan: Plan, problems: list[str]) -> None:
    kind = config.kind
    if not base.vocab_size and (kind.places in ("tables", "none") or config.token_rows):
        problems.append(_NOT_OFFERED)
    sites = []
    for name, target in plan.targets.items():
        size = (base.norms[name],) * 2 if name in base.norms else base.size_of(name)
        sites.append(Site(name, *size, target))
    for site in sites:
        if not kind.divides(site, config.options):
            problems.append(f"{site.name} of this base cannot be cut into the blocks of the configuration")
            continue
        for part, shape in kind.parts(site, config.options).items():
            _add(plan, tensor_name(site.name, part), Claim(site.name, part, shape), problems)
    for name, claim in kind.claims(sites, config.options, base).items():
        _add(plan, name, claim, problems)
        if claim.part == ROWS:
            _check_ids(config.options["token_indices"], base, problems)
            plan.token_ids[claim.place] = tuple(config.options["token_indices"])


def _claim_saved(config: AdapterConfig, base: BaseShapes, plan: Plan, problems: list[str]) -> None:
    names = [name for name in (*base.tables, *base.norms) if saves(config, name)]
    if config.ensure_tying and base.tied and {EMBEDDING, HEAD} & set(names):
        names = [*dict.fromkeys([*names, EMBEDDING, HEAD])]
    for name in names:
        shape = (base.norms[name],) if name in base.norms else (base.vocab_size, base.hidden_size)
        claim = Claim(name, SAVED, shape, grows=name not in base.norms)
        _add(plan, tensor_name(name, SAVED), claim, problems)
    useless = [ending for ending in config.saved_modules if not any(name.endswith(ending) for name in names)]
    problems.extend(
        f"modules_to_save holds {show(ending)}, which is no embedding, head or norm of this base; "
        f"train that part with low-rank pairs, or {MERGE}"
        for ending in useless
    )


def _claim_biases(config: AdapterConfig, base: BaseShapes, plan: Plan) -> None:
    for name in base.linears:
        targeted = name in plan.targets
        if name in base.biases and (config.bias == "all" or (config.bias == "only" and targeted)):
            # A targeted linear is one level deeper in PEFT's model.
            part = "base_layer.bias" if targeted else BIAS
            plan.claims[tensor_name(name, part)] = Claim(name, BIAS, (base.linears[name][0],))


def _claim_token_rows(config: AdapterConfig, base: BaseShapes, plan: Plan, problems: list[str]) -> None:
    wanted = {
        table: ids
        for ending, ids in config.token_rows
        for table in base.tables
        if table.endswith(ending or ".")
    }
    _check_named_tables(config, base, problems)
    if base.tied and wanted.get(HEAD) == wanted.get(EMBEDDING):
        # The same rows of one table: PEFT trains and saves them once.
        wanted.pop(HEAD, None)
    for table, ids in wanted.items():
        _check_ids(ids, base, problems)
        claim = Claim(table, ROWS, (len(ids), base.hidden_size))
        _add(plan, tensor_name(table, f"token_adapter.{ROWS}"), claim, problems)
        plan.token_ids[table] = ids
    if base.tied and EMBEDDING in wanted and HEAD not in wanted:
        # Of a table that was resized, PEFT saves the other end as well.
        ids = plan.token_ids[HEAD] = wanted[EMBEDDING]
        copy = Claim(HEAD, ROWS, (len(ids), base.hidden_size))
        plan.optional[tensor_name(HEAD, f"token_adapter.{ROWS}")] = copy


def _check_named_tables(config: AdapterConfig, base: BaseShapes, problems: list[str]) -> None:
    named = [
        table for ending, _ in config.token_rows for table in base.tables if table.endswith(ending or ".")
    ]
    for ending, _ in config.token_rows:
        if base.tables and not any(table.endswith(ending or ".") for table in base.tables):
            problems.append(f"trainable_token_indices names {show(ending)}; name embed_tokens or lm_head")
    problems.extend(
        f"trainable_token_indices names {table} more than once"
        for table in base.tables
        if named.count(table) > 1
    )


def _check_ids(ids: Sequence[int], base: BaseShapes, problems: list[str]) -> None:
    if max(ids, default=0) >= base.vocab_size + MAX_ADDED_TOKENS:
        problems.append(f"token {max(ids)} is more than {MAX_ADDED_TOKENS} beyond the base's vocabulary")


def _claim_carried(plan: Plan, base: BaseShapes) -> None:
    """The base's own tables, which PEFT saves along when they are targeted or were resized."""
    shape = (base.vocab_size, base.hidden_size)
    for table in base.tables:
        if tensor_name(table, SAVED) not in plan.claims:
            name = tensor_name(table, _carried_part(plan, table))
            plan.optional[name] = Claim(table, CARRIED, shape, grows=True)


def _carried_part(plan: Plan, table: str) -> str:
    """The one name of a table in PEFT's model: what trains it stands around it."""
    known = {**plan.claims, **plan.optional}
    if tensor_name(table, f"token_adapter.{ROWS}") in known:
        return "token_adapter.base_layer.weight"
    is_wrapped = table in plan.targets or tensor_name(table, ROWS) in known
    return "base_layer.weight" if is_wrapped else SAVED
