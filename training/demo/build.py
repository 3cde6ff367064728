"""Builds the whole demo: the base, the skills' data, their adapters and how well they do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from training.config import DataConfig, LoraSection, OptimConfig, TrainConfig
from training.configfile import dump_config
from training.demo.base import RECIPE_FILE, BaseRecipe, build_base
from training.demo.skills import RECIPES, SkillRecipe, rows, write_rows
from training.evaluate import compare
from training.progress import Progress, Report
from training.train import run

DONE_FILE = "demo.json"
ROOT = Path(".lorikeet/demo")


@dataclass(frozen=True, slots=True)
class Skill:
    """One trained skill and the share of held-out rows that it, and the base alone, answer exactly."""

    name: str
    adapter_folder: Path
    train_file: Path
    heldout_file: Path
    accuracy_base: float
    accuracy_skill: float


@dataclass(frozen=True, slots=True)
class Demo:
    """All of the demo, on disk under one root."""

    base: Path
    skills: list[Skill]


def build_demo(
    root: Path = ROOT,
    report: Report | None = None,
    base_recipe: BaseRecipe | None = None,
    recipes: tuple[SkillRecipe, ...] = RECIPES,
    seed: int = 0,
) -> Demo:
    """The demo under `root`; whatever of it stands there complete, and still fits, is kept."""
    base = build_base(root / "base", report, base_recipe)
    return Demo(base, [build_skill(root, base, recipe, report, seed) for recipe in recipes])


def build_skill(
    root: Path, base: Path, recipe: SkillRecipe, report: Report | None = None, seed: int = 0
) -> Skill:
    """One skill under `root/skills/NAME`: its data, `run.toml`, the adapter and its score."""
    folder = root / "skills" / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    config = skill_config(folder, base, recipe, seed)
    train, held = rows(recipe, seed)
    write_rows(config.data.train, train)
    write_rows(folder / "heldout.jsonl", held)
    fingerprint = _fingerprint(base, config)
    kept = _kept(folder, fingerprint)
    if kept:
        return kept
    (folder / DONE_FILE).unlink(missing_ok=True)
    (folder / "run.toml").write_text(_portable(config), encoding="utf-8")
    run(config, _named(report, recipe.name))
    skill = _scored(folder, config)
    _write_done(folder, skill, fingerprint)
    return skill


def skill_config(folder: Path, base: Path, recipe: SkillRecipe, seed: int = 0) -> TrainConfig:
    """The run that trains a skill: what `run.toml` in its folder says, too."""
    return TrainConfig(
        base=str(base),
        output=folder / "adapter",
        data=DataConfig(train=folder / "train.jsonl", eval=folder / "heldout.jsonl", max_length=256),
        lora=LoraSection(rank=16, alpha=32.0),
        optim=OptimConfig(
            learning_rate=recipe.learning_rate, warmup_steps=5, batch_size=16, epochs=recipe.epochs
        ),
        seed=seed,
        overwrite=True,
    )


def _portable(config: TrainConfig) -> str:
    """The config as TOML whose paths start at its own folder, so that the demo may be moved."""
    local = replace(
        config,
        base="../../base",
        output=Path("adapter"),
        data=replace(config.data, train=Path("train.jsonl"), eval=Path("heldout.jsonl")),
    )
    return f"# Train this skill again with: lorikeet train run.toml\n{dump_config(local)}"


def _scored(folder: Path, config: TrainConfig) -> Skill:
    scores = compare(config.base, config.output, config.data)
    return Skill(
        name=folder.name,
        adapter_folder=config.output,
        train_file=config.data.train,
        heldout_file=folder / "heldout.jsonl",
        accuracy_base=scores.base.accuracy,
        accuracy_skill=scores.adapter.accuracy,
    )


def _fingerprint(base: Path, config: TrainConfig) -> str:
    """Of what decides the adapter: the base's recipe, the rows and the settings; not of where they lie."""
    settings = asdict(config) | {"base": "", "output": "", "data": ""}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in (base / RECIPE_FILE, config.data.train, config.data.train.with_name("heldout.jsonl")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _kept(folder: Path, fingerprint: str) -> Skill | None:
    """The skill that stands in `folder`, if it was finished from the same ingredients."""
    try:
        done = json.loads((folder / DONE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if done.get("fingerprint") != fingerprint or not (folder / "adapter" / "adapter_config.json").exists():
        return None
    return Skill(
        name=folder.name,
        adapter_folder=folder / "adapter",
        train_file=folder / "train.jsonl",
        heldout_file=folder / "heldout.jsonl",
        accuracy_base=float(done["accuracy_base"]),
        accuracy_skill=float(done["accuracy_skill"]),
    )


def _write_done(folder: Path, skill: Skill, fingerprint: str) -> None:
    """Last of all, and in one rename: a build that was killed before is no finished skill."""
    done = {
        "fingerprint": fingerprint,
        "accuracy_base": skill.accuracy_base,
        "accuracy_skill": skill.accuracy_skill,
    }
    partial = folder / f".{DONE_FILE}.partial"
    partial.write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
    partial.rename(folder / DONE_FILE)


def _named(report: Report | None, name: str) -> Callable[[Progress], None] | None:
    """Tells the skills' runs apart in what is reported."""
    return None if report is None else lambda progress: report(replace(progress, phase=name))
