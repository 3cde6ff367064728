"""Every command in README and docs is run, in order, against one small house."""

import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import Default

from loadtests.scenario.spec import read_scenario
from lorikeet import Client
from lorikeet.cli.main import main
from lorikeet.local import serving
from lorikeet.v1 import adapters_pb2, inference_pb2
from server.config import ServerConfig
from tests.warm import Request, Starter
from training.configfile import parse_config
from training.demo.base import BaseRecipe
from training.demo.build import build_demo
from training.demo.pretrain import Schedule
from training.demo.skills import RECIPES

ROOT = Path(__file__).parent.parent
# The order in which a reader would meet them; operators.md deletes what the others use.
NAMES = ["training", "merge", "applications", "loadtests", "operators"]
PAGES = ["README.md", *(f"docs/{name}.md" for name in NAMES)]
OTHERS = ["docs/internals.md", "docs/performance.md", "docs/reliability.md"]
MICRO = BaseRecipe(
    num_documents=300, vocab_size=512, schedule=Schedule(num_steps=5, batch_size=4, row_length=64)
)
# What most commands import, most of their time.
IMPORTS = ["lorikeet.cli.main", "lorikeet.client", "training.train", "loadtests.scenario.all"]
SERVICES = (inference_pb2.DESCRIPTOR, adapters_pb2.DESCRIPTOR)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language and text."""

    language: str
    text: str


def blocks(page: str) -> list[Block]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    return [Block(language, text) for language, text in fenced]


def commands(page: str) -> list[str]:
    return [line for b in blocks(page) if b.language == "sh" for line in b.text.splitlines() if line]


@dataclass(frozen=True)
class Here:
    """A folder as the README's reader has it after `make demo`, and a server."""

    folder: Path
    target: str
    starter: Starter

    @property
    def environment(self) -> dict[str, str]:
        fixed = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return {**fixed, "LORIKEET_TARGET": self.target}

    def check_lorikeet(self, line: str, arguments: list[str]) -> None:
        """The command line succeeds, in a process of its own that starts warm."""
        request = Request("lorikeet.cli", arguments, str(self.folder), self.environment, IMPORTS)
        with tempfile.TemporaryFile("w+") as output:
            code = self.starter.run(request, output)
            output.seek(0)
            assert code == 0, f"{line}\n{output.read()}"

    def check_python(self, text: str) -> None:
        command = [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{text}\n{done.stderr}"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, starter: Starter) -> Iterator[Here]:
    folder = tmp_path_factory.mktemp("reader")
    legal = next(recipe for recipe in RECIPES if recipe.name == "legal")
    legal = replace(legal, num_train=64, num_heldout=16, epochs=1.0)
    demo = build_demo(folder / ".lorikeet/demo", None, MICRO, (legal,))
    (folder / "server.toml").write_text(
        next(b.text for b in blocks("docs/operators.md") if b.language == "toml")
    )
    # Where the pages have it.
    (folder / ".lorikeet/store").symlink_to(folder / "store")
    with serving(demo.base, folder, ("--threads", "1")) as server:
        with Client(server.target) as client:
            server.wait_ready(client)
        yield Here(folder, server.target, starter)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_works(page: str, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here.folder)
    for line in commands(page):
        words = shlex.split(line.replace("localhost:50051", here.target))
        program, *arguments = words
        if program == "make":
            subprocess.run(["make", "-n", *arguments], cwd=ROOT, check=True, capture_output=True)
        elif program == "grpcurl":
            check_grpcurl(arguments)
        elif arguments[0] == "serve":
            check_serve(arguments, monkeypatch)
        else:
            assert program == "lorikeet", line
            here.check_lorikeet(line, arguments)
    for block in blocks(page):
        if block.language == "python":
            here.check_python(block.text.replace("localhost:50051", here.target))


def check_grpcurl(arguments: list[str]) -> None:
    """The method exists, and the JSON is its request; grpcurl itself is not needed for that."""
    service, _, method = arguments[-1].rpartition("/")
    found = Default().FindServiceByName(service).methods_by_name[method]
    if "-d" in arguments:
        request = message_factory.GetMessageClass(found.input_type)()
        json_format.Parse(arguments[arguments.index("-d") + 1], request)


def check_serve(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The flags and the file make a configuration; a hub's model is not fetched here."""
    served: list[ServerConfig] = []
    monkeypatch.setattr("server.app.run", served.append)
    assert main(arguments) == 0
    assert [bool(config.base) for config in served] == [True]


@pytest.mark.parametrize("page", OTHERS)
def test_other_pages_name_only_targets_and_modules_that_exist(page: str) -> None:
    for line in commands(page):
        program, *arguments = shlex.split(line)
        if program == "make":
            targets = [a for a in arguments if "=" not in a]
            subprocess.run(["make", "-n", *targets], cwd=ROOT, check=True, capture_output=True)
        else:
            raise AssertionError(f"{page}: {line} is not tried by any test")


def test_links_and_named_files_exist() -> None:
    for page in (*PAGES, *OTHERS):
        text = (ROOT / page).read_text()
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert "://" in link or ((ROOT / page).parent / link).exists(), f"{page}: {link}"
        for file in re.findall(
            r"`((?:server|adapters|training|lorikeet|tests|loadtests)/[\w/.]+\.py)`", text
        ):
            assert (ROOT / file).exists(), f"{page}: {file}"


def test_the_runs_in_the_docs_are_runs() -> None:
    needed = {"base": "b", "output": "o"}
    for block in blocks("docs/training.md"):
        if block.language == "toml":
            given = tomllib.loads(block.text)
            parse_config(needed | given | {"data": {"train": "t.jsonl"} | given.get("data", {})})


def test_the_load_in_the_docs_is_a_scenario(tmp_path: Path) -> None:
    (text,) = [block.text for block in blocks("docs/loadtests.md") if block.language == "toml"]
    (tmp_path / "load.toml").write_text(text)
    assert read_scenario(str(tmp_path / "load.toml"), "full").summary == "ours"
