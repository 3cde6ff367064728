"""What is prepared once is read ever after, for one base, whole or not at all."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters import BaseShapes, InvalidAdapter, LocalStore, Manifest, inspect
from adapters.flat import flatten, unflatten
from adapters.manifest import Conversion
from adapters.prepared import is_prepared, load, prepare
from tests.adapters.small import MAX_RANK, tiny
from tests.dense import base_of
from tests.peft_kinds import KINDS

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning"
)
BASE = "a" * 64


@pytest.fixture
def dora(tmp_path: Path) -> Iterator[tuple[Path, Manifest]]:
    folder = tmp_path / "dora"
    with torch.random.fork_rng():
        KINDS["dora_biases"](tiny(bias=True), folder)
    yield folder, inspect(folder, base_of(tiny(bias=True), BASE).shapes, MAX_RANK)


def test_prepared_is_what_it_was_made_for(dora: tuple[Path, Manifest]) -> None:
    folder, manifest = dora
    base = base_of(tiny(bias=True), BASE)
    assert not is_prepared(folder, manifest, BASE)
    with pytest.raises(InvalidAdapter, match="not prepared for the base"):
        load(folder, manifest, base.shapes, MAX_RANK)
    assert prepare(folder, manifest, base, MAX_RANK) == Conversion(4, 0.0, BASE)
    assert is_prepared(folder, manifest, BASE)
    assert sorted(path.name for path in (folder / "prepared").iterdir()) == [
        f"{BASE}.json",
        f"{BASE}.safetensors",
    ]
    for fingerprint in ("b" * 64, ""):
        other = base_of(tiny(bias=True), fingerprint)
        assert not is_prepared(folder, manifest, fingerprint)
        with pytest.raises(InvalidAdapter, match="not prepared for the base"):
            load(folder, manifest, other.shapes, MAX_RANK)


def test_it_survives_the_disk_exactly_and_is_cast_at_last(dora: tuple[Path, Manifest]) -> None:
    folder, manifest = dora
    base = base_of(tiny(bias=True), BASE)
    prepare(folder, manifest, base, MAX_RANK)
    first = load(folder, manifest, base.shapes, MAX_RANK)
    prepare(folder, manifest, base, MAX_RANK)
    again = flatten(load(folder, manifest, base.shapes, MAX_RANK))
    assert all(torch.equal(tensor, again[name]) for name, tensor in flatten(first).items())
    half = flatten(load(folder, manifest, base.shapes, MAX_RANK, torch.bfloat16))
    vectors = {name for name in half if name.endswith(("gain", "bias"))}
    assert vectors and {half[name].dtype for name in half.keys() - vectors} == {torch.bfloat16}
    assert all(torch.equal(half[name], again[name]) for name in vectors)


def test_every_flipped_byte_of_it_is_noticed(dora: tuple[Path, Manifest]) -> None:
    folder, manifest = dora
    base, rng = base_of(tiny(bias=True), BASE), random.Random(0)
    prepare(folder, manifest, base, MAX_RANK)
    data = folder / "prepared" / f"{BASE}.safetensors"
    good = data.read_bytes()
    for at in rng.sample(range(len(good)), 50):
        data.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(InvalidAdapter, match="changed on disk"):
            load(folder, manifest, base.shapes, MAX_RANK)
    data.unlink()
    with pytest.raises(InvalidAdapter, match="cannot be opened"):
        load(folder, manifest, base.shapes, MAX_RANK)


@pytest.mark.parametrize("field", ["digest", "base", "format"])
def test_a_note_of_something_else(dora: tuple[Path, Manifest], field: str) -> None:
    folder, manifest = dora
    base = base_of(tiny(bias=True), BASE)
    prepare(folder, manifest, base, MAX_RANK)
    note = folder / "prepared" / f"{BASE}.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), field: "other"}))
    with pytest.raises(InvalidAdapter, match="damaged"):
        load(folder, manifest, base.shapes, MAX_RANK)


def test_a_failed_preparation_leaves_nothing(dora: tuple[Path, Manifest]) -> None:
    folder, manifest = dora
    base = base_of(tiny(bias=True), BASE)
    weights = folder / "adapter_model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(InvalidAdapter, match="changed on disk"):
        prepare(folder, manifest, base, MAX_RANK)
    assert not (folder / "prepared").exists()


@pytest.fixture
def lora(tmp_path: Path) -> tuple[Path, BaseShapes]:
    with torch.random.fork_rng():
        KINDS["lora"](tiny(), tmp_path / "lora")
    return tmp_path / "lora", base_of(tiny()).shapes


@pytest.mark.parametrize(
    "change",
    [
        {"targets": {"model.layers.0.self_attn.q_proj": [1, 1.0]}},
        {"kind": "dora"},
        {"rank": 1},
        {"num_parameters": 1},
        {"dtype": "BF16"},
        {"base_model_name": "another"},
        {"num_virtual_tokens": 7},
        {"top_token": 1000},
        {"digest": "0" * 64},
    ],
    ids=lambda change: str(*change),
)
def test_a_changed_manifest_is_noticed(lora: tuple[Path, BaseShapes], change: dict[str, Any]) -> None:
    folder, shapes = lora
    fields = json.loads(inspect(folder, shapes, MAX_RANK).to_json())
    with pytest.raises(InvalidAdapter, match="another base, or its manifest"):
        load(folder, Manifest.from_json(json.dumps({**fields, **change})), shapes, MAX_RANK)


def test_another_base_is_noticed(lora: tuple[Path, BaseShapes]) -> None:
    folder, shapes = lora
    manifest = inspect(folder, shapes, MAX_RANK)
    wider = type(shapes)(
        {name: (out, 2 * width) for name, (out, width) in shapes.linears.items()}, hidden_size=32
    )
    with pytest.raises(InvalidAdapter, match="does not fit this base"):
        load(folder, manifest, wider, MAX_RANK)


def test_names_that_are_no_part_of_an_adapter() -> None:
    for name in ("other/a", "linears/q/low_rank/c", "linears/q/gain/a", "head/x"):
        with pytest.raises(ValueError, match="no part"):
            unflatten({name: torch.zeros(1)})


def test_it_moves_into_the_store_with_the_files(dora: tuple[Path, Manifest], store: LocalStore) -> None:
    folder, manifest = dora
    base = base_of(tiny(bias=True), BASE)
    staging = store.stage(manifest.files, 1 << 20)
    for file in manifest.files:
        staging.write(file.name, 0, (folder / file.name).read_bytes())
    staging.seal()
    conversion = prepare(staging.folder, manifest, base, MAX_RANK)
    version = store.commit(staging, "acme", "dora", replace(manifest, conversion=conversion))
    assert version.manifest.conversion == conversion
    assert store.resolve("acme", "dora").manifest.conversion == conversion
    assert load(store.folder(version.digest), version.manifest, base.shapes, MAX_RANK).linears
