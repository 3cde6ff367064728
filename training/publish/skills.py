"""Three skills on their way from raw rows to live aliases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lorikeet.client import Client
from training.demo.base import BaseRecipe
from training.demo.build import skill_config
from training.demo.pretrain import Schedule
from training.demo.skills import RECIPES, SkillRecipe, rows, write_rows
from training.progress import Progress, Report
from training.publish.gate import publish
from training.publish.plan import PublishPlan
from training.publish.report import PublishReport
from training.publish.trained import open_trained
from training.train import run

ALIAS = "prod"
# Seconds instead of minutes: enough to learn something, not enough to be of use.
TINY_BASE = BaseRecipe(
    num_documents=60,
    vocab_size=400,
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_heads=4,
    max_positions=256,
    schedule=Schedule(num_steps=3, batch_size=4, row_length=32, warmup_steps=1),
)
TINY_SKILLS = tuple(replace(recipe, num_train=32, num_heldout=8, epochs=2.0) for recipe in RECIPES)


def publish_skills(
    root: Path,
    base: Path,
    client: Client,
    recipes: Sequence[SkillRecipe] = RECIPES,
    report: Report | None = None,
) -> list[PublishReport]:
    """Every skill under `root/skills` and, as far as its gate lets it, behind `NAME@prod` on the server."""
    return [_publish(root / "skills" / recipe.name, base, client, recipe, report) for recipe in recipes]


def _publish(
    folder: Path, base: Path, client: Client, recipe: SkillRecipe, report: Report | None
) -> PublishReport:
    config = skill_config(folder, base, recipe)
    assert config.data.eval is not None, "the gate judges on rows that training never sees"
    folder.mkdir(parents=True, exist_ok=True)
    train, held = rows(recipe, config.seed)
    write_rows(config.data.train, train)
    write_rows(config.data.eval, held)
    run(config, _named(report, recipe.name))
    trained = open_trained(config.output)
    return publish(trained, client, PublishPlan(name=recipe.name, alias=ALIAS), report)


def _named(report: Report | None, name: str) -> Report | None:
    """Tells the skills' runs apart in what is reported."""

    def tell(progress: Progress) -> None:
        assert report is not None, "only given on where somebody listens"
        report(replace(progress, phase=name))

    return tell if report else None
