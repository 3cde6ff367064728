"""The gate before a live server: what passes, what is refused where, and that a refusal leaves no trace."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorikeet import Client
from lorikeet.cli.main import main
from lorikeet.errors import NotFound
from lorikeet.local import Serving
from lorikeet.types import AdapterVersion
from tests.whole import FLAGS, ready
from training.errors import InvalidConfig
from training.publish.gate import publish
from training.publish.plan import PublishPlan
from training.publish.report import PublishReport
from training.publish.trained import open_trained

Colors = Callable[..., Path]
WEAK, GOOD, BETTER = 6, 25, 40


def passed(client: Client, folder: Path, name: str, **options: Any) -> PublishReport:
    return publish(open_trained(folder), client, PublishPlan(name=name, prompts=4, tokens=4, **options))


def versions(client: Client, name: str) -> list[AdapterVersion]:
    return [version for version in client.adapters.list() if version.name == name]


def test_the_first_version_goes_live_and_a_better_one_follows(client: Client, colors: Colors) -> None:
    first = passed(client, colors(GOOD), "colors")
    assert first.published and first.current is None and not first.reasons
    assert first.base and first.candidate and first.base.accuracy == 0.0 < first.candidate.accuracy
    # float32 on both sides: what is left is the order of sums.
    assert first.parity and first.parity.largest < 1e-3 < 0.5 < first.parity.effect
    assert (first.parity.num_prompts, first.parity.num_values) == (4, 4 * 4 * 20)
    assert client.adapters.get("colors@prod").version == 1

    second = passed(client, colors(BETTER), "colors", share=10)
    assert second.published and second.current and second.candidate and second.candidate.loss
    assert second.current.who == "colors@1" and second.current.loss > second.candidate.loss
    assert second.current.accuracy == first.candidate.accuracy, "the server answers as the trainer did"
    assert (second.shares_before, second.shares_after) == ({1: 1}, {1: 90, 2: 10})
    assert client.adapters.get_alias("colors", "prod").shares == {1: 90, 2: 10}

    third = passed(client, colors(BETTER), "colors")
    assert third.published and third.version == "colors@2" and third.shares_after == {2: 1}
    written = json.loads((colors(BETTER) / "publish_report.json").read_text())
    assert written["published"] and written["version"] == "colors@2" and written["digest"] == third.digest


def test_a_worse_one_is_refused_before_it_is_uploaded(client: Client, colors: Colors) -> None:
    passed(client, colors(GOOD), "worse")
    before = client.adapters.get_alias("worse", "prod")
    report = passed(client, colors(WEAK), "worse")
    assert not report.published and report.version == "" and report.parity is None
    assert any("is above the" in reason and "of worse@1" in reason for reason in report.reasons)
    assert client.adapters.get_alias("worse", "prod") == before
    assert [version.version for version in versions(client, "worse")] == [1]
    assert passed(client, colors(WEAK), "worse", alias="trial", margin=10.0).published
    with pytest.raises(InvalidConfig, match="no alias gone to compare with"):
        passed(client, colors(WEAK), "worse", against="gone")
    assert not passed(client, colors(WEAK), "worse", alias="next", against="prod").published


def test_one_that_learned_nothing_is_refused(client: Client, copied: Colors) -> None:
    folder = copied(WEAK)
    weights = load_file(folder / "adapter_model.safetensors")
    torch.manual_seed(0)
    save_file(
        {name: torch.randn_like(weight) for name, weight in weights.items()},
        folder / "adapter_model.safetensors",
    )
    report = passed(client, folder, "nothing")
    assert "is not below the base's" in report.reasons[0]
    assert versions(client, "nothing") == []


def test_bytes_that_are_not_as_they_were_trained_are_refused(client: Client, copied: Colors) -> None:
    """The manifest still tells of the adapter that it was written for."""
    folder = copied(GOOD)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 9.0}))
    report = passed(client, folder, "tampered")
    assert report.reasons[0].startswith("the server refuses it: ") and "the scale of" in report.reasons[0]
    with pytest.raises(NotFound):
        client.adapters.get_alias("tampered", "prod")


def test_a_template_of_its_own_that_training_did_not_have(client: Client, base: Path, copied: Colors) -> None:
    folder = copied(GOOD)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}!{% endfor %}")
    manifest = json.loads((folder / "lorikeet_manifest.json").read_text())
    del manifest["chat_template_sha256"]
    (folder / "lorikeet_manifest.json").write_text(json.dumps(manifest))
    report = passed(client, folder, "template")
    assert "makes other tokens of line 1's prompt" in report.reasons[0]
    assert versions(client, "template") == [], "what was uploaded is taken back"


class Rival:
    """Moves the alias right before the gate does, as another publisher would."""

    def __init__(self, client: Client, monkeypatch: pytest.MonkeyPatch, version: int, times: int) -> None:
        self.left, self._real = times, client.adapters.set_alias
        self._version = version
        monkeypatch.setattr(client.adapters, "set_alias", self)

    def __call__(self, name: str, alias: str, shares: dict[int, int], **options: Any) -> Any:
        if self.left:
            self.left -= 1
            self._real(name, alias, {self._version: 1})
        return self._real(name, alias, shares, **options)


def test_a_rival_that_is_worse_is_overtaken_and_a_better_one_stays(
    client: Client, colors: Colors, monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in (WEAK, BETTER):
        client.adapters.upload(colors(steps), "race")
    client.adapters.set_alias("race", "prod", {1: 1})
    with monkeypatch.context() as patched:
        Rival(client, patched, version=1, times=2)
        overtaking = passed(client, colors(GOOD), "race")
    assert overtaking.published and overtaking.looks == 3 and overtaking.version == "race@3"

    client.adapters.set_alias("race", "prod", {1: 1})
    client.adapters.delete("race@3")
    with monkeypatch.context() as patched:
        Rival(client, patched, version=2, times=1)
        beaten = passed(client, colors(GOOD), "race")
    assert not beaten.published and beaten.current and beaten.current.who == "race@2" and beaten.looks == 2
    assert client.adapters.get_alias("race", "prod").shares == {2: 1}
    assert [version.version for version in versions(client, "race")] == [1, 2]

    with monkeypatch.context() as patched:
        Rival(client, patched, version=1, times=99)
        hopeless = passed(client, colors(GOOD), "race", margin=10.0)
    assert "race@prod moved 5 times meanwhile" in hopeless.reasons[0]
    assert [version.version for version in versions(client, "race")] == [1, 2]


@pytest.fixture(scope="module")
def rounded(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server that holds the base in NF4."""
    flags = (*FLAGS, "--quantization", "nf4")
    with ready(base, tmp_path_factory.mktemp("rounded"), flags) as (running, _):
        yield running


def test_only_the_codes_that_were_trained_on_pass(rounded: Serving, colors: Colors) -> None:
    with Client(rounded.target, timeout=60) as client:
        told = passed(client, colors(GOOD), "rounded")
        assert "trained over the base in none, served over it in nf4" in told.reasons[0]
        shown = passed(client, colors(GOOD), "rounded", allow_base_mismatch=True)
        assert shown.parity and shown.parity.largest > shown.parity.tolerance == 1e-3
        assert "differ from the trainer's by up to" in shown.reasons[0]
        assert versions(client, "rounded") == []

        right = passed(client, colors(GOOD, "nf4"), "rounded")
        assert right.published and right.parity and right.parity.largest < 1e-3


def test_the_command_prints_its_verdict(
    server: Serving, colors: Colors, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["publish", str(colors(GOOD)), "--to", server.target, "--name", "told", "--prompts", "2"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "told@prod is told@1 (@1: 1)" in said.out and "publish_report.json" in said.err
    assert main(["publish", str(colors(WEAK)), *words[2:]]) == 1
    assert "refused: its held-out loss" in capsys.readouterr().out
    assert main(["publish", str(colors(GOOD).parent), *words[2:]]) == 2
    assert "give --base" in capsys.readouterr().err
    assert main([*words, "--share", "0"]) == 2
    assert "share is a percentage" in capsys.readouterr().err


def test_a_run_goes_from_its_file_to_an_alias(
    server: Serving,
    client: Client,
    colors: Colors,
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = open_trained(colors(WEAK)).config.data.train
    toml = tmp_path / "run.toml"
    toml.write_text(
        f'base = "{base}"\noutput = "adapter"\nthreads = 1\n[data]\ntrain = "{rows}"\n'
        "[optim]\nlearning_rate = 0.02\nmax_steps = 6\nbatch_size = 12\n"
    )
    words = ["train", str(toml), "--register", client.target, "--name", "file", "--alias", "prod"]
    assert main(words) == 2
    assert "--alias judges on held-out rows" in capsys.readouterr().err
    toml.write_text(toml.read_text().replace("[optim]", f'eval = "{rows}"\n[optim]'))
    assert main(words) == 0, capsys.readouterr().err
    assert client.adapters.get("file@prod").version == 1
    assert main(words[:2] + ["--alias", "prod"]) == 2
