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
# Of two merges, one after the other, how much the peak is above what the process held before.
MEASURE = """
import sys
from pathlib import Path
import torch
from adapters.merge.changes import Changes
from adapters.merge.checkpoint import Checkpoint
from adapters.merge.recipes import Trained, rounded
from adapters.merge.stream import write_merged
from adapters.normal import AdapterWeights, LinearChange, LowRank

def kilobytes(name):
    return int(Path("/proc/self/status").read_text().partition(name + ":")[2].split()[0])

torch.set_num_threads(1)
rounded(torch.randn(1024, 1024), "nf4")
pair = LowRank(torch.randn(8, 1024), torch.randn(1024, 8) * 0.01)
for recipe, target in (("none", "fp32"), ("nf4", "nf4")):
    trained = Trained(Checkpoint(Path(sys.argv[1])), recipe)
    linears = {name: LinearChange(pair) for name in trained.checkpoint.shapes().linears}
    # The peak starts anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    changes, out = Changes(AdapterWeights(linears)), Path(sys.argv[2]) / target
    write_merged(out, trained, changes, target, int(sys.argv[3]))
    print((kilobytes("VmHWM") - before) * 1024)
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


def peak_growths(base: Path, out: Path) -> list[int]:
    """Each matrix is given back when it is freed, so that holes between others count for nothing."""
    for target in ("fp32", "nf4"):
        (out / target).mkdir(parents=True)
    limits = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(base), str(out), str(SHARD)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), **limits},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


def test_memory_is_of_a_shard_and_not_of_the_model(tmp_path: Path) -> None:
    total = make_big_base(tmp_path / "base")
    matrix = WIDTH * WIDTH * 4
    assert total > 190 * 1024 * 1024
    plain, quantized = peak_growths(tmp_path / "base", tmp_path / "out")
    for growth in (plain, quantized):
        # The mapped shard and the pending one, and what it takes to round one matrix of 4 MiB and to compare.
        assert 2 * matrix < growth < 2 * SHARD + 10 * matrix, f"{growth / 2**20:.0f} MiB"
        assert growth < total / 2
