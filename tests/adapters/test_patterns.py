from __future__ import annotations

import re
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.patterns import (
    MAX_PATTERN_LENGTH,
    BadPattern,
    any_index_finder,
    full_matcher,
    index_finder,
    suffix_matcher,
)

NAMES = [
    f"model.layers.{layer}.{rest}"
    for layer in (0, 1, 10)
    for rest in ("self_attn.q_proj", "mlp.up_proj", "mlp")
] + ["lm_head", "", "q_proj", "h.3.x.4.q"]
ATOMS = [
    "q_proj",
    "v",
    ".*",
    r"\.",
    ".",
    "model",
    r"layers\.[01]",
    "(?:q|k)",
    "[a-z]+",
    r"\d+?",
    "(up|down)",
    "|",
    "^",
    "$",
]
ATOMS += [
    "_proj",
    "[^x]{1,3}",
    r"\w*",
    "mlp",
    "(",
    ")",
    "[",
    "*",
    "{,2}",
    r"\b",
    "a{2}",
    "]",
    "-",
    "--",
    "&&",
]
PATTERNS = st.lists(st.sampled_from(ATOMS), max_size=6).map("".join)


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pattern=PATTERNS)
def test_what_is_taken_matches_as_in_python(pattern: str) -> None:
    try:
        full, suffix, index = full_matcher(pattern), suffix_matcher(pattern), index_finder(pattern)
        re.compile(pattern)
    except (BadPattern, re.error):
        return
    for name in NAMES:
        assert full(name) == bool(re.fullmatch(pattern, name))
        assert suffix(name) == bool(re.match(rf"(.*\.)?({pattern})$", name))
        match = re.match(rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.", name)
        number = match["idx"] if match else None
        assert index(name) == (match is not None, None if number is None else int(number))


def test_the_first_number_is_the_layer() -> None:
    find = any_index_finder()
    assert find("model.layers.1.experts.0.up") == (True, 1)
    assert find("layers.1.up") == (False, None)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?!lm_head).*",
        r"(?<=a)b",
        r"(a)\1",
        r"(?P<idx>a)",
        "(?i)q",
        "(",
        "a**",
        "a++",
        r"\Qa",
        r"\pL",
        "\u00e9",
        "a\n",
    ]
    + [
        "[[:alpha:]]",
        "x{,2}",
        "x{5000}",
        "(?:(?:x{900}){900}){900}",
        "a" * (MAX_PATTERN_LENGTH + 1),
        "\\",
        "\ud800",
    ],
)
def test_foreign_patterns_are_refused(pattern: str) -> None:
    for make in (full_matcher, suffix_matcher, index_finder):
        with pytest.raises(BadPattern):
            make(pattern)


def test_no_pattern_stalls() -> None:
    name = "a" * 5000 + "!"
    began = time.process_time()
    for pattern in ("(a+)+b", "(a|aa)+b", "(.*a){20}b", "(?:a?){200}a{200}b"):
        assert not full_matcher(pattern)(name)
        assert not suffix_matcher(pattern)(name)
    assert time.process_time() - began < 2
