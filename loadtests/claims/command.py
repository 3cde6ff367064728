"""`make bench-training`: published claims about training with LoRA, each judged by what is measured here.

python -m loadtests.claims [--scale tiny|small|gpu] [--parts ranks,placement,...] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from loadtests.claims.chain import make_base
from loadtests.claims.claims import judged
from loadtests.claims.costs import flops, memory
from loadtests.claims.figures import FLOPS_RANK, Measured, figures_of
from loadtests.claims.learn import Bench
from loadtests.claims.pictures import write_pictures
from loadtests.claims.scale import SCALES, Scale
from loadtests.claims.sweeps import best_of, of_batches, of_places, of_ranks
from loadtests.claims.tables import markdown, print_all
from loadtests.concurrent import Speed, TrainingConfig, padding_tokenizer
from loadtests.concurrent import measure as measure_speed
from loadtests.figures import finite
from loadtests.merge_routes import measure as measure_routes
from training.quiet import quiet

FLOPS_RANKS = (1, FLOPS_RANK, 32, 128)
TRAINED = ("ranks", "placement", "batches")
PARTS = (*TRAINED, "operations", "memory", "merge", "speed")
OUT = Path(".lorikeet/bench-training")


def main(arguments: Sequence[str] | None = None) -> int:
    """0: what is published is judged, not this machine."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.claims", description=__doc__)
    parser.add_argument("--scale", choices=tuple(SCALES), default="small", help="gpu is for a large GPU")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for figures, table and pictures")
    parser.add_argument("--parts", type=_parts, default=PARTS, help=f"of {','.join(PARTS)}, with commas")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with quiet(), tempfile.TemporaryDirectory(prefix="lorikeet-claims-") as folder:
        measured = measure(SCALES[chosen.scale], chosen.parts, Path(folder))
    write(chosen.out, chosen.scale, measured, time.monotonic() - began)
    return 0


def measure(scale: Scale, parts: Sequence[str], folder: Path) -> Measured:
    """What `parts` names; the rest is empty. `folder` takes what lasts no longer than this."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = make_base(scale, device) if set(parts) & set(TRAINED) else None
    runs = {
        "ranks": lambda: of_ranks(scale),
        "placement": lambda: of_places(scale, base),
        "batches": lambda: of_batches(scale),
    }
    bench = Bench(scale, base, padding_tokenizer(), folder)
    trials = {part: list(bench.trials(runs[part]())) if part in parts else [] for part in TRAINED}
    return Measured(
        trials=trials["ranks"],
        ranks=best_of(sorted(trials["ranks"], key=lambda trial: trial.rank)),
        places=best_of(trials["placement"]),
        batches=best_of(trials["batches"]),
        flops=list(flops(scale.flops_hidden, FLOPS_RANKS)) if "operations" in parts else [],
        memory=[memory(scale.nf4_width)] if "memory" in parts else [],
        routes=measure_routes(folder / "routes") if "merge" in parts and scale.merges else [],
        speeds=speeds(scale, "none", scale.adapters) if "speed" in parts else [],
        speeds_nf4=speeds(scale, "nf4", "1") if "speed" in parts else [],
    )


def speeds(scale: Scale, quantization: str, adapters: str) -> list[Speed]:
    """Tokens a second, with activations kept."""
    config = TrainingConfig(
        model=scale.speed_shape,
        quantization=quantization,
        adapters=adapters,
        length=scale.speed_length,
        checkpointing=scale.speed_shape == "8b",
    )
    return list(measure_speed(config))


def write(out: Path, scale: str, measured: Measured, seconds: float) -> None:
    """Tables on the terminal; claims.json, claims.md and PNG files in `out`."""
    figures = figures_of(measured)
    verdicts = list(judged(figures))
    print_all(measured, verdicts)
    story = {
        "scale": {"name": scale, **asdict(SCALES[scale])},
        "seconds": seconds,
        "figures": figures,
        "verdicts": [{"claim": each.claim.text, "verdict": each.verdict.value} for each in verdicts],
        "measured": asdict(measured),
    }
    (out / "claims.json").write_text(json.dumps(finite(_listed(story)), indent=2) + "\n")
    (out / "claims.md").write_text(markdown(verdicts))
    write_pictures(out, measured)


def _parts(text: str) -> tuple[str, ...]:
    unknown = sorted(set(text.split(",")) - set(PARTS))
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: parts are {', '.join(PARTS)}")
    return tuple(text.split(","))


def _listed(value: object) -> object:
    """Tuples as lists, which JSON makes of them anyway."""
    if isinstance(value, dict):
        return {name: _listed(part) for name, part in value.items()}
    return [_listed(part) for part in value] if isinstance(value, list | tuple) else value
