"""The table of hostile safetensors files, row by row."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.errors import InvalidAdapter
from adapters.files import open_regular
from adapters.header import MAX_HEADER_BYTES, MAX_TENSORS, TensorInfo, parse_header, read_header

Raw = Callable[..., bytes]


def entry(start: int = 0, end: int = 8, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def problems_of(raw: bytes, size: int | None = None) -> tuple[str, ...]:
    with pytest.raises(InvalidAdapter) as caught:
        parse_header(raw, len(raw) if size is None else size)
    return caught.value.problems


def test_a_good_header(make_raw: Raw) -> None:
    header = {"__metadata__": {"format": "pt"}, "b": entry(8, 16, [2, 2], "BF16"), "a": entry(0, 8)}
    raw = make_raw(header, bytes(16))
    start = len(raw) - 16
    assert parse_header(raw, len(raw)) == {
        "b": TensorInfo("BF16", (2, 2), start + 8, start + 16),
        "a": TensorInfo("F32", (2,), start, start + 8),
    }


def test_trailing_spaces_pad_a_header(make_raw: Raw) -> None:
    raw = make_raw(json.dumps({"a": entry()}).encode() + b"   ", bytes(8))
    assert set(parse_header(raw, len(raw))) == {"a"}


def test_an_empty_tensor_may_stand_where_another_begins(make_raw: Raw) -> None:
    raw = make_raw({"a": entry(0, 8), "empty": entry(0, 0, [0, 4]), "last": entry(8, 8, [0])}, bytes(8))
    assert set(parse_header(raw, len(raw), may_be_empty=True)) == {"a", "empty", "last"}
    inside = make_raw({"a": entry(0, 8), "empty": entry(4, 4, [0])}, bytes(8))
    with pytest.raises(InvalidAdapter, match="overlaps"):
        parse_header(inside, len(inside), may_be_empty=True)


@pytest.mark.parametrize("size", [2**63, 200_000_000, MAX_HEADER_BYTES + 1])
def test_a_huge_header_length(size: int) -> None:
    assert "declares a header" in problems_of(size.to_bytes(8, "little") + b"{}", 10**12)[0]


@pytest.mark.parametrize("raw", [b"", b"\0" * 7, (3).to_bytes(8, "little") + b"{}"])
def test_a_cut_file(raw: bytes) -> None:
    assert problems_of(raw)


def test_whitespace_instead_of_a_header(make_raw: Raw) -> None:
    assert "does not begin" in problems_of(make_raw(b" " * 1000 + b"{}"))[0]


def test_pickle_is_no_header() -> None:
    assert problems_of(b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00cposix\nsystem\n")


def test_a_flood_of_tensors_is_refused_at_once(make_raw: Raw) -> None:
    body = b",".join(b'"%d":0' % i for i in range(90_000))
    began = time.process_time()
    assert "tensors" in problems_of(make_raw(b"{" + body + b"}"))[0]
    assert time.process_time() - began < 2


@pytest.mark.parametrize("unit", [b'\\"', b'"', b"[", b'{"":', b"\\"])
def test_no_header_is_scanned_in_quadratic_time(make_raw: Raw, unit: bytes) -> None:
    began = time.process_time()
    problems_of(make_raw(b'{"' + unit * ((MAX_HEADER_BYTES - 2) // len(unit))))
    assert time.process_time() - began < 2


def test_more_tensors_than_any_model_has(make_raw: Raw) -> None:
    assert MAX_TENSORS >= 128 * 7 * 2
    header = {f"{i:x}": entry(8 * i, 8 * i + 8) for i in range(MAX_TENSORS + 1)}
    assert f"1 to {MAX_TENSORS}" in problems_of(make_raw(header, bytes(8 * len(header))))[0]


@pytest.mark.parametrize(
    ("header", "data", "told"),
    [
        ({}, 0, "holds 0 tensors"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "overlaps"),
        ({"a": entry(0, 8), "b": entry(0, 8)}, 8, "overlaps"),
        ({"a": entry(4, 12)}, 12, "hole"),
        ({"a": entry(0, 8), "b": entry(12, 20)}, 20, "hole"),
        ({"a": entry()}, 9, "should end at"),
        ({"a": entry()}, 7, "should end at"),
        ({"a": entry(shape=[3])}, 8, "takes 12 bytes"),
        ({"a": entry(shape=[2**62, 4])}, 8, "takes"),
        ({"a": entry(8, 0)}, 8, "span -8"),
        ({"a": entry(0, 0, [0, 2**31])}, 0, "positive dimensions"),
        ({"a": entry(shape=[1, 1, 2])}, 8, "positive dimensions"),
        ({"a": entry(shape=[1] * 66)}, 8, "positive dimensions"),
        ({"a": entry(shape=[])}, 8, "positive dimensions"),
        ({"a": entry(shape=[-2])}, 8, "positive dimensions"),
        ({"a": entry(shape=[2.0])}, 8, "positive dimensions"),
        ({"a": entry(0, 4, [True])}, 4, "positive dimensions"),
        ({"a": entry(0, 2, [2], "I8")}, 2, "dtype"),
        ({"a": entry(dtype="F64")}, 8, "dtype"),
        ({"a": entry(dtype=["F32"])}, 8, "dtype"),
        ({"a": {"dtype": "F32", "shape": [2]}}, 8, "exactly dtype"),
        ({"a": {**entry(), "strides": [0]}}, 8, "exactly dtype"),
        ({"a": None}, 0, "exactly dtype"),
        ({"a": {**entry(), "data_offsets": [0, 4, 8]}}, 8, "two offsets"),
        ({"a": {**entry(), "data_offsets": [0, 8.0]}}, 8, "two offsets"),
        ({"a": entry(), "__metadata__": {"x": 1}}, 8, "strings to strings"),
        ({"a": entry(), "__metadata__": []}, 8, "strings to strings"),
        ({"a": entry(), "__metadata__": {"x": "y" * 20_000}}, 8, "larger than"),
    ],
)
def test_bad_headers(make_raw: Raw, header: dict[str, Any], data: int, told: str) -> None:
    assert told in " ".join(problems_of(make_raw(header, bytes(data))))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":0}', "appears twice"),
        (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", "nests deeper"),
        (b'{"a":' + b'{"a":' * 100_000, "nests deeper"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":-1e999}', "beyond the largest number"),
        (b'{"a":' + b"9" * 100_000 + b"}", "too long"),
        (b'{"a":"\xff"}', "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"{} x", "not valid JSON"),
    ],
)
def test_bad_json(make_raw: Raw, text: bytes, told: str) -> None:
    assert told in problems_of(make_raw(text))[0]


def test_all_problems_come_at_once(make_raw: Raw) -> None:
    header = {"a": entry(dtype="I8"), "b": entry(shape=[]), "../../etc/x\0": None, "__metadata__": 3}
    problems = problems_of(make_raw(header, bytes(8)))
    assert len(problems) == 4
    assert all(problem.isprintable() and problem.isascii() for problem in problems)


def test_only_regular_files_are_opened(tmp_path: Path, make_raw: Raw) -> None:
    real, link, pipe = tmp_path / "real", tmp_path / "link", tmp_path / "pipe"
    real.write_bytes(make_raw({"a": entry()}, bytes(8)))
    link.symlink_to(real)
    os.mkfifo(pipe)
    with open_regular(real) as fd:
        assert set(read_header(fd)) == {"a"}
    for path in (link, pipe, tmp_path, tmp_path / "absent"):
        with pytest.raises(InvalidAdapter), open_regular(path):
            pass


def test_a_sparse_giant_is_refused_without_reading_it(tmp_path: Path, make_raw: Raw) -> None:
    path = tmp_path / "sparse"
    path.write_bytes(make_raw({"a": entry()}, bytes(8)))
    os.truncate(path, 8 * 1024**3)
    with pytest.raises(InvalidAdapter, match="should end at"), open_regular(path) as fd:
        read_header(fd)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_flipped_bytes_never_escape(make_raw: Raw, flips: list[tuple[int, int]]) -> None:
    raw = bytearray(make_raw({"__metadata__": {"f": "pt"}, "a": entry(0, 8), "b": entry(8, 16)}, bytes(16)))
    for at, value in flips:
        raw[at % (len(raw) - 16)] = value
    try_parse(bytes(raw))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
_ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F16", "I8"]) | _JSON,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | _JSON,
        "data_offsets": st.lists(st.integers(-4, 64), min_size=2, max_size=2) | _JSON,
    }
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    header=st.dictionaries(st.sampled_from(["a", "b", "__metadata__", ""]), _ENTRY | _JSON),
    size=st.integers(0, 80),
)
def test_odd_headers_never_escape(make_raw: Raw, header: dict[str, Any], size: int) -> None:
    try_parse(make_raw(header, bytes(size)))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(raw=st.binary(max_size=200))
def test_random_bytes_never_escape(make_raw: Raw, raw: bytes) -> None:
    try_parse(raw)
    try_parse(make_raw(raw))


def try_parse(raw: bytes) -> None:
    """Either InvalidAdapter, or tensors that tile the file exactly."""
    try:
        tensors = parse_header(raw, len(raw))
    except InvalidAdapter:
        return
    spans = sorted((info.start, info.end) for info in tensors.values())
    assert spans[-1][1] == len(raw)
    assert all(before[1] == after[0] for before, after in zip(spans, spans[1:], strict=False))


@pytest.mark.long
def test_long_fuzz(make_raw: Raw) -> None:
    rng = random.Random(0)
    good = make_raw({"__metadata__": {"f": "pt"}, "a": entry(0, 8), "b": entry(8, 16)}, bytes(16))
    for _ in range(200_000):
        raw = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        try_parse(bytes(raw))
