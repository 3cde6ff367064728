"""The whole bench at a size that says nothing about the claims, in parts that meet in one file."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.claims import inputs
from loadtests.claims.command import ClaimsOptions, run
from loadtests.claims.costs import Memory
from loadtests.claims.measured import PARTS
from loadtests.claims.parts import Parts
from loadtests.figures import LoadTestError

PICTURES = {"ranks.png", "placement.png", "batches.png", "operations.png", "speed.png"}


def test_parts_meet_in_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = "ranks,placement,batches,speed"
    rest = [part for part in PARTS if part not in first.split(",")]
    assert run(ClaimsOptions(scale="tiny", parts=first, out=tmp_path)) == 0
    kept = json.loads((tmp_path / "claims.json").read_text())["measured"]
    assert run(ClaimsOptions(scale="tiny", parts=",".join(rest), out=tmp_path)) == 0
    story = json.loads((tmp_path / "claims.json").read_text())
    assert story["taken"].keys() == set(PARTS)
    assert {part: story["measured"][part] for part in first.split(",")} == {
        part: kept[part] for part in first.split(",")
    }
    assert all(part["seconds"] > 0 and "CPU" in part["device"] for part in story["taken"].values())
    trials = story["measured"]["ranks"]
    assert len({(each["subject"], each["rate"], each["seed"]) for each in trials}) == 3 * 2 * 2
    assert all(0 < each["loss"] < 10 for each in trials)
    check_costs(story["figures"])
    check_outcome(tmp_path, story, capsys.readouterr().out)


def test_a_part_is_measured_again_when_its_inputs_have_changed_or_somebody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = list[str]()
    whole = Parts.memory

    def memory(self: Parts) -> list[Memory]:
        measured.append(self.scale.speed_shape)
        return whole(self)

    monkeypatch.setattr(Parts, "memory", memory)
    options = ClaimsOptions(scale="tiny", parts="memory", out=tmp_path)
    for _ in range(2):
        assert run(options) == 0
    assert len(measured) == 1
    assert run(replace(options, again=True)) == 0
    assert len(measured) == 2
    monkeypatch.setattr(inputs, "PACKAGES", ("training",))
    assert run(options) == 0
    assert len(measured) == 3


def check_costs(figures: dict[str, float]) -> None:
    """What does not depend on the size of the run."""
    assert figures["float32_7B"] == pytest.approx(4 * 6.738, rel=1e-3), "Llama 2's own count"
    assert figures["nf4_70B"] == pytest.approx(36.4, rel=0.01)
    assert figures["bits_saved"] == pytest.approx(0.373, abs=1e-3)
    assert 0.5 < figures["flops_kept"] < figures["flops_recomputed"] < 1


def check_outcome(folder: Path, story: dict[str, object], said: str) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files.keys() == PICTURES | {"claims.json", "claims.md"}
    assert all(files[name].startswith(b"\x89PNG") for name in PICTURES)
    table = files["claims.md"].decode().splitlines()
    verdicts = story["verdicts"]
    assert isinstance(verdicts, list) and len(table) == 2 + len(verdicts)
    assert [line.split(" | ")[-1].rstrip(" |") for line in table[2:]] == [v["verdict"] for v in verdicts]
    assert all(title in said for title in ("Placement, each at its best rate", "Published claims"))


def test_figures_of_another_scale_are_not_judged_together(tmp_path: Path) -> None:
    (tmp_path / "claims.json").write_text('{"scale": {}}')
    with pytest.raises(LoadTestError, match="another --out"):
        run(ClaimsOptions(scale="tiny", parts="memory", out=tmp_path))


def test_unknown_parts_are_named() -> None:
    with pytest.raises(ValueError, match="placment is none of ranks, placement"):
        ClaimsOptions(parts="ranks,placment")
