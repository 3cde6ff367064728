"""A whole server, front and engine, killed in the middle of uploads, moves of aliases and answers."""

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lorikeet import Client, LorikeetError, resume
from lorikeet.local import Serving
from server.audit import verify
from tests.toys import make_adapter, reference_answer, store_adapter
from tests.whole import make_whole_base, ready

PROMPT, NUM_TOKENS = [random.Random(0).randrange(8, 300) for _ in range(24)], 6
ALIASES = ("skill@prod", "skill@next")
RANKS = (64, 4, 8, 128)
UPLOADS, MOVES, ANSWERS = range(3)


@dataclass
class Book:
    """What servers have confirmed, and what was asked of one that could not confirm it any more.

    answers: digest -> tokens, by PEFT.
    """

    answers: dict[str, list[int]]
    versions: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)
    moving: dict[str, int] = field(default_factory=dict)

    def check(self, client: Client) -> None:
        """All that was confirmed is there, aliases are where they were moved, and what is new is whole."""
        stored = {version.id: version.digest for version in client.adapters.list()}
        assert self.versions.items() <= stored.items()
        for alias, version in self.aliases.items():
            found = client.adapters.get(alias)
            assert found.version in {version, self.moving.get(alias)}, alias
            self.aliases[alias] = found.version
        self.moving.clear()
        for id in stored.keys() - self.versions.keys():
            self.answer(client, id)
        self.versions |= stored

    def answer(self, client: Client, adapter: str) -> None:
        """PEFT's answer for the version that answered."""
        result = client.generate(PROMPT, adapter=adapter, max_new_tokens=NUM_TOKENS, ignore_eos=True).result()
        assert list(result.samples[0].token_ids) == self.answers[result.adapter_digest]
        assert self.versions.get(result.adapter_version) in (None, result.adapter_digest)


@dataclass
class Storm:
    """Clients that go on until their server is gone; enough once each kind was confirmed so many times."""

    client: Client
    book: Book
    folders: list[Path]
    numbers: random.Random
    stop_after: int
    confirmed: list[int] = field(default_factory=lambda: [0, 0, 0])
    wrong: list[Exception] = field(default_factory=list)
    is_enough: threading.Event = field(default_factory=threading.Event)

    def kill(self, server: Serving) -> None:
        """Front, engine and whatever else it has started."""
        works = [(UPLOADS, self.upload), (MOVES, self.move), (ANSWERS, self.ask)]
        threads = [
            threading.Thread(target=self._go_on, args=(first, *work)) for work in works for first in (0, 1)
        ]
        for thread in threads:
            thread.start()
        assert self.is_enough.wait(240)
        front = psutil.Process(server.process.pid)
        for process in (front, *front.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for thread in threads:
            thread.join()
        assert self.wrong == []

    def upload(self, turn: int) -> None:
        """New versions of the name whose aliases move, and names of their own."""
        folder = self.numbers.choice(self.folders)
        name = "skill" if turn % 2 else f"other-{turn % 7}"
        version = self.client.adapters.upload(folder, name)
        self.book.versions[version.id] = version.digest

    def move(self, turn: int) -> None:
        """Nobody else moves that alias, so what was confirmed last is where it is."""
        alias = ALIASES[turn % 2]
        known = [int(id.partition("@")[2]) for id in list(self.book.versions) if id.startswith("skill@")]
        version = self.numbers.choice(known)
        name, _, label = alias.partition("@")
        self.book.moving[alias] = version
        self.client.adapters.set_alias(name, label, {version: 1})
        self.book.aliases[alias] = version
        del self.book.moving[alias]

    def ask(self, turn: int) -> None:
        self.book.answer(self.client, self.numbers.choice([*ALIASES, *list(self.book.versions)]))

    def _go_on(self, turn: int, kind: int, work: Callable[[int], None]) -> None:
        try:
            while True:
                work(turn)
                turn += 2
                self.confirmed[kind] += 1
                if min(self.confirmed) >= self.stop_after:
                    self.is_enough.set()
        except (LorikeetError, AssertionError, KeyError) as error:
            # Without a server no call succeeds; before that every call must.
            if not (isinstance(error, LorikeetError) and self.is_enough.is_set()):
                self.wrong.append(error)
                self.is_enough.set()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whole_base(tmp_path_factory.mktemp("killed-base"))


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=[pytest.mark.long, pytest.mark.timeout(7200)])])
def test_a_killed_server_keeps_what_it_confirmed_and_shows_nothing_partial(
    base: Path, tmp_path: Path, kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server does not come back while its clients wait for it.
    monkeypatch.setattr(resume, "PATIENCE", 0.5)
    folders = [make_adapter(base, tmp_path / f"r{r}", seed=r, r=r) for r in RANKS]
    book = Book({digest_of(folder, base, tmp_path): judged(folder, base) for folder in folders})
    numbers = random.Random(kills)
    for number in range(kills + 1):
        with ready(base, tmp_path, timeout=120) as (server, client):
            book.check(client)
            check_folders(tmp_path / "store")
            if number == kills:
                break
            storm = Storm(client, book, folders, numbers, stop_after=numbers.randrange(2, 6))
            for turn in (0, 1) if not number else ():
                storm.upload(1)
                storm.move(turn)
            storm.kill(server)
    assert len(book.versions) > 1


def digest_of(folder: Path, base: Path, scratch: Path) -> str:
    return store_adapter(scratch / "scratch", base, folder, "x")


def judged(folder: Path, base: Path) -> list[int]:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    return reference_answer(model, PROMPT, NUM_TOKENS, eos_token_id=None)


def check_folders(store: Path) -> None:
    """Every stored folder is whole, what is staged can be gone on with, and the audit log's chain holds."""
    for folder in store.glob("blobs/*/*"):
        # What the engine makes of it says itself whether it is whole.
        names = {file.name for file in folder.iterdir()} - {"prepared"}
        assert names == {"adapter_config.json", "adapter_model.safetensors", "manifest.json"}
    for folder in (store / "staging").iterdir():
        assert {file.name for file in folder.iterdir()} == {"upload.json", "files"}
    verify(store / "audit")
