"""Answers under churn are those of an undisturbed run: loads, cancels, poison, moved names, lost engines."""

import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from adapters import AdapterNotFound, LocalStore, Share, VersionInUse
from adapters.format import inspect
from adapters.manifest import BaseShapes, Manifest
from server.engine.reader import AdapterReader
from server.model.adapter import AdapterBlob, Allocate
from tests.toys import VOCAB, Driven, drive, make_adapter, make_base, store_adapter

PROMPT = [5, 6, 7, 8]
NAMES = ("rank4", "rank8-rs", "rank16-patterns", "rank64-regex", "layer1-only")


def tokens_of(driven: Driven, number: int) -> list[int]:
    return [token.token for token in driven.tokens[number]]


def decoding(zoo: Any, num_slots: int, rounds: int, disturbers: tuple[str, ...] = ()) -> list[list[int]]:
    """What two adapters say, round by round, while requests of others come, wait, run and are cancelled."""
    driven = drive(zoo.base, zoo.store, adapter_slots=num_slots, host_cache_bytes=1, drain_after=0.0)
    chance, answers = random.Random(1), []
    for _ in range(rounds):
        asked = [driven.submit(PROMPT, zoo.digests[name], max_new_tokens=200) for name in NAMES[:2]]
        others: list[int] = []
        while not all(driven.tokens[each] and driven.tokens[each][-1].finish for each in asked):
            if disturbers and chance.random() < 0.3:
                name = chance.choice(disturbers)
                others.append(driven.submit(PROMPT, zoo.digests[name], tenant="other", max_new_tokens=3))
            if others and chance.random() < 0.1:
                driven.abort(others.pop(chance.randrange(len(others))))
            driven.step()
        answers += driven.answers(*asked)
        assert driven.failures == {}
    return answers


@pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=pytest.mark.long)])
@pytest.mark.parametrize("num_slots", [2, 3])
def test_loads_in_the_middle_of_decoding_change_no_token(zoo: Any, num_slots: int, rounds: int) -> None:
    control = decoding(zoo, num_slots, rounds)
    assert control == decoding(zoo, num_slots, rounds), "the undisturbed run is not determined"
    assert decoding(zoo, num_slots, rounds, disturbers=NAMES[2:]) == control


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """A base of long contexts with two adapters: base, store, digests."""
    root = tmp_path_factory.mktemp("roomy")
    base = make_base(root / "base", max_position_embeddings=1024)
    folders = [make_adapter(base, root / f"{seed}", seed) for seed in (1, 2)]
    return base, root / "store", [store_adapter(root / "store", base, each, each.name) for each in folders]


@pytest.mark.parametrize("runs", [3, pytest.param(50, marks=pytest.mark.long)])
@pytest.mark.parametrize("cancels", [False, True])
def test_adapters_in_turns_over_one_long_prefix_share_nothing(
    roomy: tuple[Path, Path, list[str]], cancels: bool, runs: int
) -> None:
    base, store, digests = roomy
    chance = random.Random(4)
    prefix = [chance.randrange(3, VOCAB) for _ in range(600)]
    options: dict[str, Any] = {"cache_tokens": 8192, "adapter_slots": 1, "drain_after": 0.0}
    alone = []
    for digest in digests:
        driven = drive(base, store, prefix_cache=False, **options)
        alone += driven.answers(driven.submit([*prefix, 9], digest))
    driven = drive(base, store, **options)
    for _ in range(runs):
        asked = []
        for turn in range(4):
            asked.append((driven.submit([*prefix, 9], digests[turn % 2]), alone[turn % 2]))
            if cancels:
                gone = driven.submit([*prefix, chance.randrange(3, VOCAB)], digests[chance.randrange(2)])
                for _ in range(chance.randrange(6)):
                    driven.step()
                driven.abort(gone)
        for number, expected in asked:
            assert driven.answers(number) == [expected]
    assert driven.engine.stats().prefix_hit_tokens > 0 and driven.failures == {}


def test_seven_neighbours_of_a_poisoned_adapter_get_the_same_bits(
    zoo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The eighth has one token to say: healthy, it says it and leaves; poisoned, it fails and leaves.

    Weights that are not finite are never read; these make logits that are not.
    """
    read, poisoned = AdapterReader.__call__, list[str]()

    def read_poisoned(self: AdapterReader, digest: str, allocate: Allocate) -> AdapterBlob:
        blob = read(self, digest, allocate)
        return replace(blob, flat=torch.full_like(blob.flat, 3e38)) if digest in poisoned else blob

    monkeypatch.setattr(AdapterReader, "__call__", read_poisoned)

    def batch() -> tuple[Driven, int, list[int]]:
        # One after another to the device before the batch begins: the same slots, and all start in one step.
        driven = drive(zoo.base, zoo.store, prefix_cache=False, adapter_readers=1)
        for name in NAMES:
            driven.submit(PROMPT, zoo.digests[name], max_new_tokens=1)
        driven.drain()
        driven.failures.clear()
        eighth = driven.submit(PROMPT, zoo.digests[NAMES[0]], max_new_tokens=1, logprobs=5)
        names = ["", *NAMES[1:], "", NAMES[1]]
        return driven, eighth, [driven.submit(PROMPT, zoo.digests[n], logprobs=5) for n in names]

    healthy, eighth, seven = batch()
    healthy.drain()
    assert len(healthy.tokens[eighth]) == 1
    poisoned.append(zoo.digests[NAMES[0]])
    sick, victim, neighbours = batch()
    sick.drain()
    assert sick.failures[victim].reason == "numeric" and set(sick.failures) == {victim}
    for one, two in zip(seven, neighbours, strict=True):
        assert [(t.token, t.logprobs) for t in healthy.tokens[one]] == [
            (t.token, t.logprobs) for t in sick.tokens[two]
        ]


class Life(RuleBasedStateMachine):
    """Names and aliases move and are deleted, requests come and are cancelled, engines are lost.

    The model: a request's answer is that of the digest its reference meant when it came. There is room for
    two adapters on the device and for none in host memory, so that each request puts somebody out.
    """

    zoo: ClassVar[Any]
    manifests: ClassVar[dict[str, Manifest]]
    expected: ClassVar[dict[str, list[int]]]

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="lorikeet-life-")
        self.store = LocalStore(Path(self.folder.name) / "store")
        # Name -> live versions' digests by number; name -> the version of its alias.
        self.versions: dict[str, dict[int, str]] = {name: {} for name in "abc"}
        self.aliases: dict[str, int] = {}
        self.live: dict[int, str] = {}
        self.begin()

    def begin(self) -> None:
        root = Path(self.folder.name) / "store"
        self.driven = drive(
            self.zoo.base, root, adapter_slots=2, cache_tokens=512, overlap="on", host_cache_bytes=1
        )

    @property
    def meanings(self) -> dict[str, str]:
        """Every reference that must be known -> the digest it means."""
        found = {f"{name}@{v}": digest for name, live in self.versions.items() for v, digest in live.items()}
        found |= {name: live[max(live)] for name, live in self.versions.items() if live}
        return found | {f"{name}@prod": self.versions[name][v] for name, v in self.aliases.items()}

    @rule(name=st.sampled_from("abc"), adapter=st.sampled_from(NAMES))
    def upload(self, name: str, adapter: str) -> None:
        manifest, folder = self.manifests[adapter], self.zoo.folders[adapter]
        with self.store.stage(list(manifest.files), 1 << 30) as staging:
            for file in manifest.files:
                staging.write(file.name, 0, (folder / file.name).read_bytes())
            staging.seal()
            version = self.store.commit(staging, "default", name, manifest)
        self.versions[name][version.version] = manifest.digest

    @precondition(lambda self: self.meanings)
    @rule(data=st.data())
    def point(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(name for name, live in self.versions.items() if live)))
        version = data.draw(st.sampled_from(sorted(self.versions[name])))
        self.store.aliases.set("default", name, "prod", [Share(version, 1)])
        self.aliases[name] = version

    @precondition(lambda self: self.meanings)
    @rule(data=st.data(), force=st.booleans())
    def delete(self, data: st.DataObject, force: bool) -> None:
        """A version, or a whole name; who runs on it goes on, or ends by force as the server ends them."""
        reference = data.draw(st.sampled_from(sorted(each for each in self.meanings if "prod" not in each)))
        name, _, number = reference.partition("@")
        gone = {int(number)} if number else set(self.versions[name])
        if self.aliases.get(name) in gone and not force:
            with pytest.raises(VersionInUse):
                self.store.delete("default", reference)
            return
        digests = {version.digest for version in self.store.delete("default", reference, force)}
        assert digests == {self.versions[name].pop(version) for version in gone}
        if self.aliases.get(name) in gone:
            del self.aliases[name]
        for asked in [asked for asked, digest in self.live.items() if force and digest in digests]:
            self.driven.abort(asked)
            del self.live[asked]
        self.store.collect(set(self.live.values()).__contains__)

    @rule(reference=st.sampled_from([f"{name}{end}" for name in "abc" for end in ("", "@1", "@2", "@prod")]))
    def ask(self, reference: str) -> None:
        if reference not in self.meanings:
            with pytest.raises(AdapterNotFound):
                self.store.resolve("default", reference)
            return
        digest = self.store.resolve("default", reference).digest
        assert digest == self.meanings[reference]
        self.live[self.driven.submit(PROMPT, digest)] = digest

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.live)))
        self.driven.abort(number)
        del self.live[number]

    @rule(number=st.integers(1, 8))
    def step(self, number: int) -> None:
        for _ in range(number):
            self.driven.step()
        assert self.driven.failures == {}
        for asked, digest in list(self.live.items()):
            said = tokens_of(self.driven, asked)
            assert said == self.expected[digest][: len(said)], "another adapter's answer, or a lost token"
            if said and self.driven.tokens[asked][-1].finish:
                assert len(said) == len(self.expected[digest])
                del self.live[asked]

    @rule()
    def lose_the_engine(self) -> None:
        """Whoever waits or runs is asked again of the next one, with the tokens it has."""
        old, live = self.driven, self.live
        old.engine.close()
        self.begin()
        self.live = {}
        for asked, digest in live.items():
            said = tokens_of(old, asked)
            number = self.driven.submit([*PROMPT, *said], digest, answered=len(said))
            self.driven.tokens[number] = list(old.tokens[asked])
            self.live[number] = digest

    def teardown(self) -> None:
        while self.live:
            self.step(20)
        self.driven.drain()
        self.driven.engine.close()
        self.store.close()
        self.folder.cleanup()


@pytest.mark.parametrize(
    ("lives", "steps"),
    [(4, 25), pytest.param(150, 60, marks=[pytest.mark.long, pytest.mark.timeout(7200)])],
)
def test_a_name_answers_with_what_it_meant_when_it_was_asked(zoo: Any, lives: int, steps: int) -> None:
    driven = drive(zoo.base, zoo.store)
    asked = {zoo.digests[name]: driven.submit(PROMPT, zoo.digests[name]) for name in NAMES}
    driven.drain()
    Life.zoo = zoo
    Life.expected = {digest: tokens_of(driven, number) for digest, number in asked.items()}
    shapes = BaseShapes(driven.engine._runner._decoder.config.linear_shapes())  # type: ignore[attr-defined]
    Life.manifests = {name: inspect(zoo.folders[name], shapes, 256) for name in NAMES}
    run_state_machine_as_test(
        Life, settings=settings(max_examples=lives, stateful_step_count=steps, deadline=None)
    )
