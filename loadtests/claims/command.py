"""`make bench-training`: published claims about training with LoRA, each judged by what is measured here.

python -m loadtests.claims [--scale tiny|small|gpu] [--out FOLDER]
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
from loadtests.claims.costs import flops, held, nf4_bits, trained_share
from loadtests.claims.figures import FLOPS_RANK, Measured, figures_of
from loadtests.claims.learn import Bench, Trial
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
OUT = Path(".lorikeet/bench-training")


def main(arguments: Sequence[str] | None = None) -> int:
    """0: what is published is judged, not this machine."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.claims", description=__doc__)
    parser.add_argument("--scale", choices=tuple(SCALES), default="small", help="gpu is for a large GPU")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for figures, table and pictures")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with quiet(), tempfile.TemporaryDirectory(prefix="lorikeet-claims-") as folder:
        measured, trials = measure(SCALES[chosen.scale], Path(folder))
    write(chosen.out, chosen.scale, measured, trials, time.monotonic() - began)
    return 0


def measure(scale: Scale, folder: Path) -> tuple[Measured, list[Trial]]:
    """Everything, and the single runs of the comparison of ranks."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bench = Bench(scale, make_base(scale, device), padding_tokenizer(), folder)
    ranks = list(bench.trials(of_ranks(scale)))
    bits = nf4_bits(scale.nf4_width, double=True)
    measured = Measured(
        ranks=best_of(sorted(ranks, key=lambda trial: trial.rank)),
        places=best_of(bench.trials(of_places(scale, bench.base))),
        batches=best_of(bench.trials(of_batches(scale))),
        flops=list(flops(scale.flops_hidden, FLOPS_RANKS)),
        bits=bits,
        bits_single=nf4_bits(scale.nf4_width, double=False),
        held=held(bits),
        trained_share=trained_share(rank=16),
        routes=measure_routes(folder / "routes") if scale.merges else [],
        speeds=speeds(scale, "none", scale.adapters),
        speeds_nf4=speeds(scale, "nf4", "1"),
    )
    return measured, ranks


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


def write(out: Path, scale: str, measured: Measured, trials: Sequence[Trial], seconds: float) -> None:
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
        "trials": [asdict(trial) for trial in trials],
    }
    (out / "claims.json").write_text(json.dumps(finite(_listed(story)), indent=2) + "\n")
    (out / "claims.md").write_text(markdown(verdicts))
    write_pictures(out, measured, trials)


def _listed(value: object) -> object:
    """Tuples as lists, which JSON makes of them anyway."""
    if isinstance(value, dict):
        return {name: _listed(part) for name, part in value.items()}
    return [_listed(part) for part in value] if isinstance(value, list | tuple) else value
