"""Our matching against PEFT's own, name by name."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from adapters import BaseShapes, InvalidAdapter, Target
from adapters.peft_config import parse_config
from adapters.targets import find_targets

LEAVES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NAMES = [
    *LEAVES,
    "self_attn.q_proj",
    "layers.1.mlp.up_proj",
    "model.layers.0.self_attn.q_proj",
    "proj",
    "1.mlp.up_proj",
]
REGEXES = [
    r".*\.(q|v)_proj",
    r"model\.layers\.[0]\..*_proj",
    r".*(up|down)_proj$",
    "q_proj",
    r"model\.layers\.\d+\.mlp\.(?:gate|up)_proj",
]
PATTERNS = [
    *NAMES,
    r"layers\.1\..*",
    ".*_proj",
    r"(q|k)_proj",
    "self_attn.*",
    "q",
    r"\d+.mlp.down_proj",
    "q_proj|v_proj",
]

configs = st.fixed_dictionaries(
    {
        "r": st.integers(1, 8),
        "lora_alpha": st.integers(1, 32),
        "use_rslora": st.booleans(),
        "target_modules": st.lists(st.sampled_from(NAMES), min_size=1, max_size=4) | st.sampled_from(REGEXES),
        "exclude_modules": st.none()
        | st.lists(st.sampled_from(NAMES), max_size=2)
        | st.sampled_from([*REGEXES, ""]),
        "rank_pattern": st.dictionaries(st.sampled_from(PATTERNS), st.integers(1, 8), max_size=3),
        "alpha_pattern": st.dictionaries(st.sampled_from(PATTERNS), st.integers(1, 32), max_size=3),
        "layers_to_transform": st.none() | st.integers(0, 2) | st.lists(st.integers(0, 2), max_size=2),
        "layers_pattern": st.none()
        | st.sampled_from(
            ["layers", "", [], ["layers"], ["h", "layers"], r"l.*s", ["model.layers"], "x|layers"]
        ),
    }
)


def ours(config: dict[str, Any], base: BaseShapes) -> dict[str, Target]:
    raw = json.dumps({"peft_type": "LORA", **config}).encode()
    return find_targets(parse_config(raw, 64), base.linears)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(config=configs)
def test_the_rules_are_pefts_rules(base: BaseShapes, config: dict[str, Any]) -> None:
    from peft import LoraConfig
    from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists
    from peft.utils.other import get_pattern_key

    try:
        theirs = LoraConfig(**config)
    except ValueError:
        with pytest.raises(InvalidAdapter):
            ours(config, base)
        return
    expected = {}
    for name in base.linears:
        found = check_target_module_exists(theirs, name)
        if not found or isinstance(found, _ExcludedModule):
            continue
        rank = theirs.rank_pattern.get(get_pattern_key(theirs.rank_pattern.keys(), name), theirs.r)
        alpha = theirs.alpha_pattern.get(
            get_pattern_key(theirs.alpha_pattern.keys(), name), theirs.lora_alpha
        )
        expected[name] = Target(rank, alpha / (math.sqrt(rank) if theirs.use_rslora else rank))
    assert ours(config, base) == expected


@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
@given(config=configs)
def test_the_targets_are_the_layers_that_peft_changes(
    base: BaseShapes, tiny_llama: Callable[[], Any], config: dict[str, Any]
) -> None:
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    try:
        targets = ours(config, base)
    except InvalidAdapter:
        assume(False)
    assume(targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = inject_adapter_in_model(LoraConfig(**config), tiny_llama())
    changed = {
        name: Target(module.r["default"], module.scaling["default"])
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    assert targets == changed


def test_a_full_name_is_targeted_in_any_layer(base: BaseShapes) -> None:
    name = "model.layers.0.self_attn.q_proj"
    config = {"r": 2, "lora_alpha": 2, "layers_to_transform": [1], "target_modules": [name, "v_proj"]}
    assert list(ours(config, base)) == [name, "model.layers.1.self_attn.v_proj"]


def test_scales() -> None:
    base = BaseShapes({"q_proj": (4, 4)})
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    assert ours(config, base)["q_proj"] == Target(4, 2.0)
    assert ours(config | {"use_rslora": True}, base)["q_proj"] == Target(4, 4.0)
