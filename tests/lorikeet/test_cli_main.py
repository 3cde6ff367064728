"""Exit codes, sentences instead of tracebacks, and pipes that break."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import lorikeet
from lorikeet.cli import serve
from lorikeet.cli.command import CommandError
from lorikeet.cli.guard import require
from server.config import ServerConfig

ROOT = Path(lorikeet.__file__).parent.parent


def test_version_and_help(run):
    assert run("--version") == (0, f"lorikeet {lorikeet.__version__}\n", "")
    code, out, _ = run("--help")
    assert code == 0
    assert all(name in out for name in ("serve", "generate", "adapters", "train", "demo"))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["generate"],
        ["generate", "hi", "--temperature", "hot"],
        ["generate", "hi", "--chat", "--raw"],
        ["adapters"],
        ["adapters", "upload", "dir"],
        ["serve", "--no-such-flag"],
        ["serve", "--metrics", "1"],
        ["demo", "--prompts", "0"],
    ],
)
def test_wrong_usage_is_2(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err
    assert "Traceback" not in err


def test_no_command_shows_them_all(run):
    _, _, err = run()
    assert all(command in err for command in ("serve", "generate", "adapters", "train", "demo"))


@pytest.mark.parametrize("command", ["serve", "generate", "adapters", "train", "demo"])
def test_every_command_has_help(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert f"usage: lorikeet {command}" in out


def test_serve_has_a_flag_for_every_field(run):
    _, out, _ = run("serve", "--help")
    for field in fields(ServerConfig):
        assert "--" + field.name.replace("_", "-") in out


def test_serve_runs_the_app_with_the_configuration(run, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(serve, "_run_server", seen.append)
    file = tmp_path / "server.toml"
    file.write_text('base = "b"\nport = 1\n')
    assert run("serve", "--config", file, "--port", "2")[0] == 0
    assert seen == [ServerConfig(base="b", port=2)]


def test_serve_without_a_base_says_so(run):
    assert run("serve") == (2, "", "lorikeet: missing: --base\n")


def test_an_interrupt_is_130(run, monkeypatch):
    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "_run_server", interrupted)
    assert run("serve", "--base", "b") == (130, "", "")


def test_a_surprise_is_a_sentence_and_a_traceback_only_on_demand(run, monkeypatch):
    def broken(config):
        raise RuntimeError("wires crossed")

    monkeypatch.setattr(serve, "_run_server", broken)
    code, _, err = run("serve", "--base", "b")
    assert (code, err) == (1, "lorikeet: unexpected RuntimeError: wires crossed (--debug shows where)\n")
    code, _, err = run("serve", "--base", "b", "--debug")
    assert code == 1
    assert "Traceback" in err
    assert "wires crossed" in err


def test_errors_of_our_own_packages_are_taken_as_sentences(run, monkeypatch):
    from adapters.errors import InvalidName

    def refused(config):
        raise InvalidName("'X' is no tenant.")

    monkeypatch.setattr(serve, "_run_server", refused)
    assert run("serve", "--base", "b") == (1, "", "lorikeet: 'X' is no tenant.\n")


def test_a_missing_file_is_a_sentence(run, monkeypatch):
    monkeypatch.setattr(serve, "_run_server", lambda config: Path("/nowhere/at/all").read_text())
    assert run("serve", "--base", "b") == (1, "", "lorikeet: /nowhere/at/all: No such file or directory\n")


def test_a_missing_extra_is_a_sentence(run, monkeypatch):
    def lacking(config):
        raise ModuleNotFoundError("No module named 'torch'")

    monkeypatch.setattr(serve, "_run_server", lacking)
    code, _, err = run("serve", "--base", "b")
    assert code == 1
    assert "pip install 'lorikeet[server,training]'" in err


def test_a_shadowed_package_is_named(tmp_path, monkeypatch):
    shadow = tmp_path / "adapters"
    shadow.mkdir()
    (shadow / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "adapters"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: {"adapters": ["adapterhub"]})
    with pytest.raises(CommandError, match=r"adapters of the distribution `adapterhub`, not Lorikeet's own"):
        require("server", "adapters")


def test_a_package_that_is_not_there_is_named():
    with pytest.raises(CommandError, match="`no_such_package`, which is not installed"):
        require("no_such_package")


def test_our_own_packages_pass():
    require("server", "adapters", "training", "lorikeet")


@pytest.mark.parametrize("arguments", [["--help"], ["adapters", "list", "--json"]])
def test_a_reader_that_leaves_is_no_error(server, arguments):
    server.adapters.versions = [server.version("acme", number) for number in range(1, 80)]
    target = ["--target", server.target] if "list" in arguments else []
    command = [sys.executable, "-m", "lorikeet.cli", *arguments, *target]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_the_module_and_the_exit_code(dead_target):
    command = [sys.executable, "-m", "lorikeet.cli", "adapters", "list", "--target", dead_target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("lorikeet: ")
    assert "Traceback" not in done.stderr
