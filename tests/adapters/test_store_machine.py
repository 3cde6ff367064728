"""Uploads, aliases, pins, deletions and restarts in any order, beside a model of what must be seen."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from adapters import (
    AdapterNotFound,
    AliasChanged,
    LocalStore,
    Manifest,
    NothingToRestore,
    Share,
    VersionInUse,
)
from tests.adapters.conftest import Builder

NAMES, ALIASES = ("a", "b"), ("prod", "next")


@dataclass
class Name:
    """What a name must be: live versions, the last number, each alias's states and the one in force."""

    live: dict[int, str] = field(default_factory=dict)
    last: int = 0
    states: dict[str, list[dict[int, int]]] = field(default_factory=dict)
    in_force: dict[str, int] = field(default_factory=dict)

    def move(self, alias: str, shares: dict[int, int], restores: int | None = None) -> None:
        states = self.states.setdefault(alias, [])
        states.append(shares)
        self.in_force[alias] = len(states) - 1 if restores is None else restores

    def shares(self, alias: str) -> dict[int, int]:
        states = self.states.get(alias, [])
        return states[-1] if states else {}


class Machine(RuleBasedStateMachine):
    """One tenant on a disk."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        (self.root / "built").mkdir()
        self.builder = Builder(self.root / "built")
        self.folders = [self.builder.folder(seed=seed) for seed in range(3)]
        self.manifests: list[Manifest] = [self.builder.manifest(folder) for folder in self.folders]
        self.store = LocalStore(self.root / "store")
        self.names = {name: Name() for name in NAMES}

    @rule(name=st.sampled_from(NAMES), seed=st.integers(0, 2))
    def upload(self, name: str, seed: int) -> None:
        staging = self.builder.stage(self.store, self.folders[seed])
        version = self.store.commit(staging, "acme", name, self.manifests[seed])
        model = self.names[name]
        if not model.live or model.live[max(model.live)] != version.digest:
            model.last += 1
            model.live[model.last] = version.digest
        assert version.version == max(model.live) and version.digest == self.manifests[seed].digest

    @rule(
        name=st.sampled_from(NAMES),
        alias=st.sampled_from(ALIASES),
        shares=st.dictionaries(st.integers(1, 4), st.integers(1, 9), min_size=1, max_size=3),
        stale=st.booleans(),
    )
    def point(self, name: str, alias: str, shares: dict[int, int], stale: bool) -> None:
        model, given = self.names[name], [Share(*share) for share in shares.items()]
        etag = "999" if stale else None
        if stale or not shares.keys() <= model.live.keys():
            with pytest.raises(AliasChanged if stale else AdapterNotFound):
                self.store.aliases.set("acme", name, alias, given, etag)
        else:
            self.store.aliases.set("acme", name, alias, given, etag)
            model.move(alias, shares)

    @rule(name=st.sampled_from(NAMES), alias=st.sampled_from(ALIASES))
    def roll_back(self, name: str, alias: str) -> None:
        model = self.names[name]
        states = model.states.get(alias)
        if states is None:
            with pytest.raises(AdapterNotFound):
                self.store.aliases.roll_back("acme", name, alias)
            return
        earlier = [at for at in range(model.in_force[alias]) if states[at]]
        if not earlier or not states[earlier[-1]].keys() <= model.live.keys():
            with pytest.raises(NothingToRestore):
                self.store.aliases.roll_back("acme", name, alias)
            return
        # A state that was itself brought back stands for the one that it brought back.
        restored = self.store.aliases.roll_back("acme", name, alias)
        shares = {share.version: share.weight for share in restored.shares}
        assert shares == states[earlier[-1]]
        model.move(alias, shares, restored.states[-1].restores - 1)
        assert model.in_force[alias] <= earlier[-1]

    @rule(name=st.sampled_from(NAMES), alias=st.sampled_from(ALIASES))
    def unalias(self, name: str, alias: str) -> None:
        model = self.names[name]
        if model.shares(alias):
            self.store.aliases.delete("acme", name, alias)
            model.move(alias, {})
        else:
            with pytest.raises(AdapterNotFound):
                self.store.aliases.delete("acme", name, alias)

    @rule(name=st.sampled_from(NAMES), version=st.integers(0, 4), force=st.booleans())
    def delete(self, name: str, version: int, force: bool) -> None:
        """Version 0 is the whole name."""
        model = self.names[name]
        gone = set(model.live) if version == 0 else {version}.intersection(model.live)
        reference = f"{name}@{version}" if version else name
        named = [alias for alias in ALIASES if gone.intersection(model.shares(alias))]
        if not gone or (named and not force):
            with pytest.raises(AdapterNotFound if not gone else VersionInUse):
                self.store.delete("acme", reference, force)
            return
        deleted = self.store.delete("acme", reference, force)
        assert {each.version for each in deleted} == gone
        for alias in named:
            model.move(alias, {v: w for v, w in model.shares(alias).items() if v not in gone})
        for each in gone:
            del model.live[each]

    @rule(name=st.sampled_from(NAMES), tier=st.sampled_from(["host", "device"]))
    @precondition(lambda self: any(model.live for model in self.names.values()))
    def pin(self, name: str, tier: str) -> None:
        model = self.names[name]
        if model.live:
            self.store.pins.pin("acme", name, max(model.live), tier)
            assert self.store.pins.all()[model.live[max(model.live)]] in (tier, "device")

    @rule()
    def collect(self) -> None:
        self.store.collect()

    @rule()
    def restart(self) -> None:
        pins = self.store.pins.all()
        self.store.close()
        self.store = LocalStore(self.root / "store")
        assert self.store.pins.all() == pins

    @rule(name=st.sampled_from(NAMES), alias=st.sampled_from(ALIASES), session=st.integers(0, 50))
    def ask(self, name: str, alias: str, session: int) -> None:
        """A request is answered by a live version that the alias names, the same one each time."""
        shares = self.names[name].shares(alias)
        reference = f"{name}@{alias}"
        if not shares:
            with pytest.raises(AdapterNotFound):
                self.store.resolve("acme", reference, str(session))
            return
        first, again = (self.store.resolve("acme", reference, str(session)) for _ in range(2))
        assert first == again and first.version in shares
        assert self.store.folder(first.digest).is_dir()

    @invariant()
    def what_is_seen_is_what_must_be(self) -> None:
        seen = {(v.name, v.version): v.digest for v in self.store.list("acme")[0]}
        wanted = {(n, v): d for n, model in self.names.items() for v, d in model.live.items()}
        assert seen == wanted
        for name, model in self.names.items():
            found = self.store.aliases.list("acme", name)
            shares = {a: {s.version: s.weight for s in state.shares} for a, state in found.items()}
            assert shares == {alias: model.shares(alias) for alias in ALIASES if model.shares(alias)}
        named = {record.digest for e in self.store._ledger.index.entries("acme") for record in e.records}
        assert set(self.store.pins.all()) <= named

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.root)


@pytest.mark.parametrize(
    ("examples", "steps"),
    [(6, 25), pytest.param(200, 60, marks=[pytest.mark.long, pytest.mark.timeout(3600)])],
)
def test_any_order_of_changes(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    )
