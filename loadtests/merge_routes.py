"""`make bench-merge`: what each way to merge costs in held-out loss, for adapters of NF4 and of a plain base.

W + D              into the weights as they were before they were quantized
deq + D            into what quantizing has left of them, which is what QLoRA trains on
nf4(...), int8(...) quantized again afterwards
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from adapters.merge.changes import Changes
from adapters.merge.checkpoint import Checkpoint
from adapters.merge.encodings import mean_recovered, mean_unchanged
from adapters.merge.recipes import Trained
from adapters.merge.sources import Source, open_source, read_changes
from adapters.merge.stream import write_merged
from loadtests.figures import print_table
from training.data import read_rows
from training.demo.base import BaseRecipe, build_base
from training.demo.build import skill_config
from training.demo.pretrain import Schedule
from training.demo.skills import RECIPES, SkillRecipe, rows, write_rows
from training.encode import encode_rows
from training.evaluate import held_out_loss
from training.merge_models import adapted, dense_model
from training.model import load_tokenizer
from training.quiet import quiet
from training.train import run as train

SHARD_BYTES = 1 << 30
# A base that has learned something and is small enough to be trained on the spot.
BASE = BaseRecipe(
    num_documents=3000,
    vocab_size=512,
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    max_positions=256,
    schedule=Schedule(num_steps=300, batch_size=8, row_length=64),
)
SKILL = replace(RECIPES[0], num_train=512, num_heldout=128, epochs=3.0)
# Name, the recipe whose weights are added to, and how the sum is stored.
ROUTES = (
    ("W + D, float32", "none", "fp32"),
    ("W + D, bfloat16", "none", "bf16"),
    ("nf4(W + D)", "none", "nf4"),
    ("deq + D, float32", "nf4", "fp32"),
    ("deq + D, bfloat16", "nf4", "bf16"),
    ("int8(deq + D)", "nf4", "int8"),
    ("nf4(deq + D)", "nf4", "nf4"),
)


@dataclass(frozen=True)
class Route:
    """One row of the table: `loss` in nats a held-out token; what storing has left of the weights' change."""

    trained_on: str
    name: str
    loss: float
    recovered: float | None = None
    unchanged: float | None = None


def measure(folder: Path, recipe: BaseRecipe = BASE, skill: SkillRecipe = SKILL) -> list[Route]:
    """Trains a base, and one skill on it twice, over NF4 and over none; merges both by every route."""
    base, heldout = build_base(folder / "base", recipe=recipe), folder / "heldout.jsonl"
    settings = skill_config(folder, base, skill)
    for path, part in zip((settings.data.train, heldout), rows(skill, 0), strict=True):
        write_rows(path, part)
    tokenizer = load_tokenizer(str(base))
    examples = encode_rows(read_rows(heldout), tokenizer, settings.data, heldout)

    def loss_of(model: object) -> float:
        return held_out_loss(model, examples, int(tokenizer.pad_token_id))

    found = []
    for trained_on in ("nf4", "none"):
        train(replace(settings, quantization=trained_on))
        source = open_source(settings.output, Checkpoint(base).shapes())
        found += list(_routes(Trained(Checkpoint(base), trained_on), source, folder / "merged", loss_of))
    return found


def _routes(
    trained: Trained, source: Source, folder: Path, loss_of: Callable[[object], float]
) -> Iterator[Route]:
    live = adapted(dense_model(trained), [source], [1.0])
    yield Route(trained.recipe, "not merged, as trained", loss_of(live))
    yield Route(trained.recipe, "base alone, as trained", loss_of(dense_model(trained)))
    for name, recipe, target in ROUTES:
        onto = replace(trained, recipe=recipe)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        written = write_merged(folder, onto, Changes(read_changes(source, onto)), target, SHARD_BYTES)
        loss = loss_of(dense_model(Trained(Checkpoint(folder), "none")))
        kept, unchanged = mean_recovered(written.survivals), mean_unchanged(written.survivals)
        yield Route(trained.recipe, name, loss, kept, unchanged)


def main() -> None:
    """Prints one table for each adapter."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        routes = measure(Path(folder))
    for recipe in ("nf4", "none"):
        lines = [_cells(route) for route in routes if route.trained_on == recipe]
        columns = ("route", "held-out loss", "change of weights left", "codes unchanged")
        print_table(f"trained on {recipe}", columns, lines)


def _cells(route: Route) -> tuple[str, ...]:
    shares = ["" if share is None else f"{share:.1%}" for share in (route.recovered, route.unchanged)]
    return (route.name, f"{route.loss:.4f}", *shares)


if __name__ == "__main__":
    main()
