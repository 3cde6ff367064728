"""Flags and TOML keys from a frozen dataclass."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lorikeet.cli.command import UsageError
from lorikeet.cli.flags import add_flags, read_flags


def option(default, help):
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class Config:
    base: str = field(metadata={"help": "folder of the base"})
    max_rank: int = option(256, "highest rank, at 100% of the slots")
    share: float = option(0.5, "share of memory")
    store: Path = option(Path("store"), "folder of adapters")
    cache: bool = option(True, "reuse prompts")
    seed: int | None = option(None, "drawn if unset")

    def __post_init__(self):
        if self.max_rank < 1:
            raise ValueError("max_rank must be at least 1")


def read(*flags, toml=None, tmp_path=None):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, Config)
    file = None
    if toml is not None:
        file = tmp_path / "server.toml"
        file.write_text(toml)
    return read_flags(Config, parser.parse_args(flags), file)


def problem(*flags, **options):
    with pytest.raises(UsageError) as caught:
        read(*flags, **options)
    return str(caught.value)


def test_defaults_are_the_dataclass_defaults():
    assert read("--base", "b") == Config(base="b")


def test_every_kind_of_flag_is_read():
    flags = ["--base", "b", "--max-rank", "8", "--share", "1", "--store", "s", "--no-cache", "--seed", "3"]
    read_config = read(*flags)
    assert read_config == Config(base="b", max_rank=8, share=1.0, store=Path("s"), cache=False, seed=3)
    assert isinstance(read_config.store, Path)


def test_help_names_defaults_and_required_ones():
    parser = argparse.ArgumentParser()
    add_flags(parser, Config)
    text = " ".join(parser.format_help().split())
    assert "--base TEXT folder of the base (required)" in text
    assert "--max-rank N highest rank, at 100% of the slots (default: 256)" in text
    assert "--cache, --no-cache reuse prompts (default: yes)" in text
    assert "--store PATH folder of adapters (default: store)" in text


def test_a_missing_required_field_is_named():
    assert problem() == "missing: --base"


def test_a_wrong_value_is_refused_by_argparse(capsys):
    with pytest.raises(SystemExit) as caught:
        read("--base", "b", "--max-rank", "many")
    assert caught.value.code == 2
    assert "--max-rank" in capsys.readouterr().err


def test_the_file_is_beneath_the_flags(tmp_path):
    toml = 'base = "b"\nmax_rank = 8\nshare = 1\nstore = "s"\ncache = false\n'
    expected = Config(base="b", max_rank=9, share=1, store=Path("s"), cache=False)
    assert read("--max-rank", "9", toml=toml, tmp_path=tmp_path) == expected


def test_unknown_keys_come_with_close_matches_all_at_once(tmp_path):
    text = problem(toml='base = "b"\nmax_rnk = 8\n[zebra]\nx = 1\n', tmp_path=tmp_path)
    assert "unknown key `max_rnk` (did you mean `max_rank`?)" in text
    assert "unknown key `zebra`" in text
    assert "server.toml" in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("max_rank = true", "`max_rank` must be a whole number, not True"),
        ("max_rank = 1.5", "`max_rank` must be a whole number, not 1.5"),
        ('share = "much"', "`share` must be a number, not 'much'"),
        ("cache = 1", "`cache` must be true or false, not 1"),
        ("base = 3", "`base` must be text, not 3"),
        ("store = [1]", "`store` must be a path as text, not [1]"),
    ],
)
def test_wrong_types_in_the_file_are_named(tmp_path, line, words):
    assert words in problem(toml=line, tmp_path=tmp_path)


def test_a_file_that_is_no_toml_and_a_missing_one_are_sentences(tmp_path):
    assert "is not valid TOML" in problem(toml="base = ", tmp_path=tmp_path)
    with pytest.raises(UsageError, match="nowhere.toml cannot be read: No such file"):
        read_flags(Config, argparse.Namespace(), tmp_path / "nowhere.toml")


def test_what_the_dataclass_refuses_is_a_usage_error():
    assert problem("--base", "b", "--max-rank", "0") == "max_rank must be at least 1"


def test_a_field_no_flag_can_be_made_from_is_our_bug():
    @dataclass(frozen=True)
    class Odd:
        names: list[str] = field(default_factory=list)

    with pytest.raises(TypeError, match="no flag can be made from names"):
        add_flags(argparse.ArgumentParser(), Odd)
