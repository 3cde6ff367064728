"""`lorikeet loadtest start`: a real engine, from a folder written for it."""

import json
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from loadtests.start import no_compiled_kernels, write_base
from lorikeet.cli.main import main
from server.model.loader import load_decoder


def test_every_start_is_timed_to_the_engines_own_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "start.json"
    words = ["loadtest", "start", "--model", "tiny", "--device", "cpu", "--quantization", "none"]
    assert main([*words, "--repeats", "1", "--json", str(file)]) == 0
    assert "kernels compiled" in capsys.readouterr().out
    (start,) = json.loads(file.read_text())
    assert 0 < start["loading"] < start["to_ready"]


def test_the_base_is_one_that_transformers_reads(tmp_path: Path) -> None:
    write_base("tiny", tmp_path)
    model, told = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert model.config.hidden_size == 128
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_caches_are_where_they_were_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/mine")
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    with no_compiled_kernels(tmp_path):
        assert os.environ["XDG_CACHE_HOME"] == str(tmp_path)
        assert os.environ["TRITON_CACHE_DIR"].startswith(str(tmp_path))
    assert os.environ["XDG_CACHE_HOME"] == "/mine"
    assert "TRITON_CACHE_DIR" not in os.environ


def test_a_base_in_four_bits_is_what_the_server_makes_of_the_other(tmp_path: Path) -> None:
    write_base("tiny", tmp_path / "none")
    write_base("tiny", tmp_path / "nf4", "nf4")
    made, read = (
        load_decoder(tmp_path / name, "nf4", torch.float32, torch.device("cpu")) for name in ("none", "nf4")
    )
    for ours, theirs in zip(made.layers, read.layers, strict=True):
        for name in ("qkv", "o", "gate_up", "down"):
            a, b = getattr(ours, name).weight, getattr(theirs, name).weight
            assert torch.equal(a.codes, b.codes) and torch.equal(a.absmax, b.absmax)
    assert torch.equal(made.lm_head.weight.weight, read.lm_head.weight.weight)
