"""A merge holds about one shard, whatever the base's size: measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

LAYERS, WIDTH, VOCAB = 24, 1024, 256
SHARD = 8 * 1024 * 1024
MEASURE = """
import resource, sys
from pathlib import Path
import torch
from adapters.merge import bnb
from adapters.merge.changes import Changes
from adapters.merge.checkpoint import Checkpoint
from adapters.merge.recipes import Trained, rounded
from adapters.merge.stream import write_merged
from adapters.normal import AdapterWeights, LinearChange, LowRank

torch.set_num_threads(1)
base, out, recipe, target = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
if recipe == "nf4":
    rounded(torch.randn(1024, 1024), "nf4")
trained = Trained(Checkpoint(base), recipe)
pair = LowRank(torch.randn(8, 1024), torch.randn(1024, 8) * 0.01)
linears = {name: LinearChange(pair) for name in trained.checkpoint.shapes().linears}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_merged(out, trained, Changes(AdapterWeights(linears)), target, int(sys.argv[5]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def make_big_base(folder: Path) -> int:
    """24 shards of one layer each; the sum of their bytes."""
    folder.mkdir()
    config = {"num_hidden_layers": LAYERS, "num_attention_heads": 8, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    weight_map, total = {}, 0
    for layer in range(LAYERS):
        tensors = {
            f"model.layers.{layer}.mlp.{name}.weight": torch.randn(WIDTH, WIDTH) * 0.02
            for name in ("gate_proj", "up_proj")
        }
        if layer == 0:
            tensors["model.embed_tokens.weight"] = torch.randn(VOCAB, WIDTH)
        save_file(tensors, folder / f"model-{layer}.safetensors")
        weight_map.update(dict.fromkeys(tensors, f"model-{layer}.safetensors"))
        total += sum(tensor.nbytes for tensor in tensors.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return total


def peak_growth(base: Path, out: Path, recipe: str, target: str) -> int:
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(base), str(out), recipe, target, str(SHARD)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_memory_is_of_a_shard_and_not_of_the_model(tmp_path: Path) -> None:
    total = make_big_base(tmp_path / "base")
    matrix = WIDTH * WIDTH * 4
    assert total > 190 * 1024 * 1024
    for recipe, target in (("none", "fp32"), ("nf4", "nf4")):
        growth = peak_growth(tmp_path / "base", tmp_path / f"out-{target}", recipe, target)
        # The mapped shard and the pending one, and what it takes to round one matrix of 4 MiB and to compare.
        assert growth < 2 * SHARD + 20 * matrix, f"{target}: {growth / 2**20:.0f} MiB"
        assert growth < total / 2
