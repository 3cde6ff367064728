"""The table of methods in docs/training.md is the table of methods in the code."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from training.configfile import option_help, parse_config
from training.methods.method import Method
from training.methods.peft_configs import FAMILIES
from training.methods.table import METHODS, REFUSED

PAGE = (Path(__file__).parents[3] / "docs/training.md").read_text(encoding="utf-8")
GOOD = {"base": "some/base", "output": "out", "data": {"train": "rows.jsonl"}}


def row(name: str, method: Method) -> str:
    given = {**method.fixed, **method.suggested}
    fills = ", ".join(f"`{option} = {json.dumps(value)}`" for option, value in given.items())
    return f"| `{name}` | {method.summary} | {fills} | {method.served} |"


def test_the_page_has_every_method_as_the_code_has_it() -> None:
    section = PAGE.partition("\n## Methods\n")[2].partition("\n## ")[0]
    found = [line for line in section.splitlines() if line.startswith("| `")]
    assert found[1:] == [row(name, method) for name, method in METHODS.items()]


def test_every_family_has_a_maker_and_every_given_option_exists() -> None:
    assert {method.family for method in METHODS.values()} == {*FAMILIES, "full"}
    for method in METHODS.values():
        assert {*method.fixed, *method.suggested} <= set(option_help())
    assert not set(METHODS) & set(REFUSED)


def test_refused_methods_are_on_the_page() -> None:
    assert "AdapterHub" in PAGE and "transformers 4.57" in PAGE


@pytest.mark.parametrize("text", re.findall(r"^```toml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
def test_settings_on_the_page_are_settings(text: str) -> None:
    table = tomllib.loads(text)
    parse_config({**GOOD, **table, "data": {**GOOD["data"], **table.get("data", {})}})  # type: ignore[dict-item]
