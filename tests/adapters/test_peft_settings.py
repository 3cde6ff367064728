"""Each setting that PEFT's configurations have is read, is refused, or changes nothing in PEFT either."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from adapters import InvalidAdapter
from adapters.kinds import KINDS
from adapters.peft_config import AdapterConfig, parse_config
from tests.adapters.small import MAX_RANK, tiny
from tests.peft_kinds import KINDS as BUILDERS

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning"
)
IDS = torch.tensor([[3, 7, 5, 11, 2, 9, 1]])
# One of each type that a JSON may hold, the words that have a meaning somewhere, and what is near a default.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 7, 0.5, -1, "", "text", [], [1], ["q_proj"], {}, {"q_proj": 2}, {"rho": 2.0}),
    *(
        {"layers": 0.5},
        "gaussian",
        "orthogonal",
        "eva",
        "mica",
        "pissa",
        "olora",
        "loftq",
        "corda",
        "lora_ga",
    ),
    *("lora_only", "all", "all-linear", "CAUSAL_LM", "SEQ_CLS", "lycoris", "bat", "mini", "MLP", "TEXT"),
)
# What says which kind it is, and which base's class; PEFT reads no weights by them.
NOT_TRIED = {"peft_type", "auto_mapping", "base_model_name_or_path", "revision", "peft_version"}

# What PEFT says of a value that has no meaning to it, so none that could differ.
REFUSALS = (ValueError, TypeError, AttributeError, LookupError, RuntimeError, ImportError)


@torch.inference_mode()
def peft_logits(folder: Path) -> torch.Tensor:
    found: torch.Tensor = PeftModel.from_pretrained(tiny(), folder).eval()(IDS).logits
    return found


def read(config: dict[str, Any]) -> AdapterConfig | None:
    """What a server makes of it; None if it refuses."""
    try:
        return parse_config(json.dumps(config).encode(), MAX_RANK)
    except InvalidAdapter:
        return None


def settings_without_effect(config: dict[str, Any], names: set[str]) -> list[tuple[str, Any]]:
    """Every other value of a setting that is taken and changes nothing of what is read."""
    plain = read(config)
    assert plain is not None
    return [
        (name, value)
        for name in sorted(names)
        for value in VALUES
        if repr(value) != repr(config.get(name)) and read({**config, name: value}) == plain
    ]


@pytest.mark.parametrize("thorough", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("peft_type", KINDS)
def test_what_is_not_read_has_no_effect_in_peft(peft_type: str, thorough: bool, tmp_path: Path) -> None:
    BUILDERS[peft_type.lower()](tiny(), tmp_path)
    path = tmp_path / "adapter_config.json"
    config, expected = json.loads(path.read_text()), peft_logits(tmp_path)
    names = {field.name for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[peft_type])}
    tried = settings_without_effect(config, names - NOT_TRIED)
    compared = 0
    for name, value in tried if thorough else dict(tried).items():
        path.write_text(json.dumps({**config, name: value}))
        try:
            found = peft_logits(tmp_path)
        except REFUSALS:
            continue
        compared += 1
        assert torch.equal(found, expected), f"{name} = {value!r} is taken and not read"
    assert compared
