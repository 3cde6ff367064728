from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters import BaseShapes, InvalidAdapter
from adapters.files import MAX_CONFIG_BYTES
from adapters.kinds import KINDS, REFUSED
from adapters.peft_config import AdapterConfig, parse_config, read_config
from adapters.plan import make_plan
from adapters.targets import find_targets


def parse(config: object, max_rank: int = 64) -> AdapterConfig:
    return parse_config(json.dumps(config).encode(), max_rank)


def problems_of(config: object) -> str:
    with pytest.raises(InvalidAdapter) as caught:
        parse(config)
    return "\n".join(caught.value.problems)


def test_fields(config: dict[str, Any]) -> None:
    config |= {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 1.5}}
    config |= {"layers_to_transform": 1, "layers_pattern": "layers", "exclude_modules": ["o_proj"]}
    assert parse(config) == AdapterConfig(
        kind=KINDS["LORA"],
        rank=4,
        alpha=8.0,
        options={"use_rslora": True, "use_dora": False, "lora_bias": False},
        rank_pattern=(("q_proj", 2),),
        alpha_pattern=(("v_proj", 1.5),),
        target_modules=("q_proj", "v_proj"),
        exclude_modules=("o_proj",),
        layers_to_transform=(1,),
        layers_pattern=("layers",),
        bias="none",
        saved_modules=(),
        token_rows=(),
        ensure_tying=False,
        base_model_name="tiny/llama",
    )


@pytest.mark.parametrize("peft_type", KINDS)
def test_peft_writes_only_known_keys(peft_type: str) -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = KINDS[peft_type]
    written = {field.name for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[peft_type])}
    assert written <= kind.keys | set(kind.inert), written - kind.keys - set(kind.inert)


def test_every_type_of_peft_is_served_or_refused_with_a_reason() -> None:
    from peft import PeftType

    assert {kind.value for kind in PeftType} == set(KINDS) | set(REFUSED)
    assert not set(KINDS) & set(REFUSED)


def test_peft_saves_what_is_read(tmp_path: Path) -> None:
    import peft

    peft.LoraConfig(target_modules=["q_proj"], r=8).save_pretrained(str(tmp_path))
    assert read_config(tmp_path / "adapter_config.json", 64).rank == 8


@pytest.mark.parametrize(
    "change",
    [
        {"task_type": "CAUSAL_LM", "inference_mode": True, "lora_dropout": 0.1, "revision": "main"},
        {"auto_mapping": {"base_model_class": "L", "parent_library": "os.system", "unsloth_fixed": True}},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}},
        {"layers_to_transform": [], "layers_pattern": ""},
        {"target_modules": r".*\.(q|v)_proj"},
        {"loftq_config": {}},
        {"loftq_config": None},
        {"exclude_modules": ".*lm_head"},
    ],
)
def test_inert_values_are_taken(config: dict[str, Any], change: dict[str, Any]) -> None:
    parse(config | change)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"peft_type": "OFT"}, "full rank"),
        ({"peft_type": "POLY"}, "task"),
        ({"peft_type": "NEW"}, "merge"),
        ({"peft_type": "LOHA"}, "'lora_alpha' is not a setting"),
        ({"peft_type": None}, "peft_type"),
        ({"r": 0}, "r = 0"),
        ({"r": 65}, "limit"),
        ({"r": True}, "r = True"),
        ({"r": 4.0}, "r = 4.0"),
        ({"r": None}, "r = None"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"lora_alpha": -1}, "lora_alpha"),
        ({"lora_alpha": "8"}, "lora_alpha"),
        ({"lora_alpha": True}, "lora_alpha"),
        ({"use_rslora": 1}, "use_rslora"),
        ({"use_dora": True, "lora_bias": True}, "exclude each other"),
        ({"use_dora": "yes"}, "use_dora"),
        ({"use_qalora": True}, "use_qalora"),
        ({"bias": "some"}, "bias"),
        ({"bias": True}, "bias"),
        ({"lora_bias": 1}, "lora_bias"),
        ({"modules_to_save": ["(a|b)"]}, "no plain module name"),
        ({"modules_to_save": ["a"] * 65}, "more than 64"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1, 1]}, "each of them once"),
        ({"trainable_token_indices": {"embed_tokens": [-1]}}, "token ids"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"alora_invocation_tokens": [1]}, "alora"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"loftq_config": {"loftq_bits": 4}}, "loftq_config"),
        ({"corda_config": {}}, "corda_config"),
        ({"megatron_config": {}}, "megatron_config"),
        ({"task_type": "SEQ_CLS"}, "CAUSAL_LM"),
        ({"auto_mapping": {"x": {}}}, "auto_mapping"),
        ({"init_lora_weights": "pissa"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "corda"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "loftq"}, "replace_lora_weights_loftq"),
        ({"init_lora_weights": "new"}, "init_lora_weights"),
        ({"init_lora_weights": 1}, "init_lora_weights"),
        ({"target_modules": None}, "target_modules"),
        ({"target_modules": [1]}, "target_modules"),
        ({"target_modules": "all-linear"}, "spelled out"),
        ({"target_modules": "ALL-Linear"}, "spelled out"),
        ({"target_modules": "(?!x).*"}, "pattern"),
        ({"target_modules": "q", "layers_to_transform": [0]}, "list of names"),
        ({"layers_pattern": "layers"}, "needs layers_to_transform"),
        ({"layers_to_transform": [True]}, "layers_to_transform"),
        ({"layers_to_transform": "0"}, "layers_to_transform"),
        ({"layers_to_transform": 0, "layers_pattern": ["("]}, "pattern"),
        ({"layers_to_transform": 0, "layers_pattern": 0}, "layers_pattern"),
        ({"layers_to_transform": 0, "layers_pattern": ["x"] * 65}, "more than 64"),
        ({"exclude_modules": {}}, "exclude_modules"),
        ({"rank_pattern": []}, "rank_pattern"),
        ({"rank_pattern": {"q": 0}}, "rank_pattern['q']"),
        ({"rank_pattern": {"(": 4}}, "pattern"),
        ({"alpha_pattern": {"q": -1}}, "alpha_pattern['q']"),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path"),
        ({"base_model_name_or_path": "a\nb"}, "printable"),
        ({"base_model_name_or_path": "\ud800"}, "printable"),
        ({"base_model_name_or_path": "x" * 2000}, "printable"),
        ({"a_new_key": None}, "'a_new_key' is not a setting"),
        ({"enable_lora": None}, "not a setting"),
    ],
)
def test_what_matters_is_refused(config: dict[str, Any], change: dict[str, Any], told: str) -> None:
    assert told in problems_of(config | change)


@pytest.mark.parametrize("number", ["1e999", "NaN", "Infinity", "9" * 400])
def test_numbers_beyond_doubles(number: str) -> None:
    raw = f'{{"peft_type": "LORA", "r": 4, "lora_alpha": {number}, "target_modules": ["q_proj"]}}'
    with pytest.raises(InvalidAdapter):
        parse_config(raw.encode(), 64)


def test_size_and_depth_are_bounded(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidAdapter, match="larger than"):
        parse_config(b" " * (MAX_CONFIG_BYTES + 1), 64)
    with pytest.raises(InvalidAdapter, match="deeper"):
        parse_config(b'{"a":' + b"[" * 20_000, 64)
    assert "JSON object" in problems_of([config])


def test_all_problems_come_at_once(config: dict[str, Any]) -> None:
    told = problems_of(config | {"use_dora": 3, "r": 0, "lora_alpha": 0, "x": 1, "bias": "some"})
    assert len(told.splitlines()) == 5


def test_a_missing_key_is_a_problem(config: dict[str, Any]) -> None:
    for key in ("peft_type", "r", "lora_alpha", "target_modules"):
        assert key in problems_of({name: value for name, value in config.items() if name != key})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_LORA = KINDS["LORA"]
_KEYS = st.sampled_from(sorted(_LORA.keys | set(_LORA.inert))) | st.text(max_size=6)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes=st.dictionaries(_KEYS, _JSON, max_size=3))
def test_odd_configs_never_escape(base: BaseShapes, changes: dict[str, Any]) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]} | changes
    with suppress(InvalidAdapter):
        find_targets(parse(config), base.linears)


# Of each type, at its edges.
_ODD = (
    *("1e308", "1e-320", "-0", "9" * 20, "[]", "[[1]]", "[true]", "[1, 1]", "{}", '"("', '"|"', '""'),
    *('"\\ud800"', '["\\ud800"]', '{"\\ud800": 1}', '"a\\u0000b"', '["", ""]', '{"": [true]}'),
)


@pytest.mark.parametrize("peft_type", KINDS)
def test_odd_values_of_every_setting_of_every_kind_never_escape(base: BaseShapes, peft_type: str) -> None:
    kind = KINDS[peft_type]
    numbers = {key: "4" for key in (kind.rank_key, kind.alpha_key) if key}
    plain = {"peft_type": f'"{peft_type}"', "target_modules": '["q_proj"]', **numbers}
    for key in sorted((kind.keys | set(kind.inert)) - {"peft_type"}):
        for odd in _ODD:
            text = ", ".join(f'"{name}": {value}' for name, value in {**plain, key: odd}.items())
            with suppress(InvalidAdapter):
                make_plan(parse_config(f"{{{text}}}".encode(), 64), base, [])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(raw=st.binary(max_size=100))
def test_random_bytes_never_escape(raw: bytes) -> None:
    with pytest.raises(InvalidAdapter):
        parse_config(raw, 64)
