"""What README and docs name is there: flags and their defaults, files, headings, RPCs."""

import argparse
import re
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from lorikeet.cli.flags import add_flags
from lorikeet.cli.loadtest import TESTS
from lorikeet.cli.main import COMMANDS
from server.config import ServerConfig
from server.identity.scopes import RPCS

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
ROOMS = ("adapters", "loadtests", "lorikeet", "proto", "server", "tests", "training")
# A script of llama.cpp.
OTHERS = {"convert_hf_to_gguf.py"}


def prose(page: Path) -> str:
    """Without what other programs are told in the blocks of consoles, and modules that are run themselves."""
    others = r"^```console\n.*?^```$|`python -m [^`]*`"
    return re.sub(others, "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def flags_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        for inner in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
            yield from flags_of(inner)


def parsers() -> Iterator[argparse.ArgumentParser]:
    paths = [path for each in COMMANDS.values() for path in getattr(each, "SUBCOMMANDS", {}).values()]
    for command in (*COMMANDS.values(), *map(import_module, paths)):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        yield parser
    for test in TESTS.values():
        parser = argparse.ArgumentParser()
        module, _, name = test.config.rpartition(".")
        add_flags(parser, getattr(import_module(module), name))
        yield parser


@pytest.fixture(scope="module")
def flags() -> set[str]:
    return {flag for parser in parsers() for flag in flags_of(parser)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_that_is_named_is_one(page: Path, flags: set[str]) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", prose(page)))
    assert named <= flags


def test_the_defaults_of_the_server_are_told_as_they_are() -> None:
    defaults = {"--" + each.name.replace("_", "-"): each.default for each in fields(ServerConfig)}
    text = (ROOT / "docs/operators.md").read_text()
    told = [pair for pair in re.findall(r"`(--[a-z-]+)` \(([\d.]+)\)", text) if pair[0] in defaults]
    assert len(told) >= 8
    assert [flag for flag, number in told if defaults[flag] != float(number)] == []


@pytest.fixture(scope="module")
def files() -> list[Path]:
    return [path for room in ROOMS for path in (ROOT / room).rglob("*.*")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_is_there(page: Path, files: list[Path]) -> None:
    """By its path, or by the end of it."""
    named = set(re.findall(r"`([\w/.]+\.(?:py|cu|cuh|proto))`", page.read_text())) - OTHERS
    assert [name for name in named if not any(path.match(name) for path in files)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_heading_that_is_linked_is_there(page: Path) -> None:
    for file, anchor in re.findall(r"\]\(([\w/.]*)#([^)]+)\)", page.read_text()):
        text = (page.parent / file if file else page).read_text()
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings]


def test_the_table_of_scopes_names_every_rpc() -> None:
    table = dict(
        re.findall(r"^\| `([\w.]+)` \| ([\w, ]+) \|$", (ROOT / "docs/operators.md").read_text(), re.M)
    )
    for service in ("Inference", "Adapters", "Grants"):
        for rpc, scope in RPCS[f"lorikeet.v1.{service}"].items():
            assert rpc in table[scope].split(", "), rpc
