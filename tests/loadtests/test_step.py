"""`lorikeet loadtest step`: what it measures, what it compares, and when it says that answers differ."""

import json
import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from loadtests import floors, step_bench
from loadtests.agreement import NOTHING, Agreement, compare
from loadtests.inproc import InProcess
from loadtests.synthetic import RandomAdapters, RandomBase, config_of, in_float32
from lorikeet.cli.main import main
from server.engine.build import make_engine
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.messages import Token
from server.model.decoder import Decoder
from server.model.layers import DenseWeight, Weight

CPU, F32, BF16, NAN = torch.device("cpu"), torch.float32, torch.bfloat16, math.nan
TICK = 0.002
TINY = ["loadtest", "step", "--model", "tiny", "--device", "cpu", "--prompt", "8", "--repeats", "1"]
TINY += ["--short", "4", "--long", "7"]
ONLY_CHECK = [*TINY, "--batches", "2", "--quantizations", "none", "--mixes", "none", "--prefill", "0"]


@pytest.mark.parametrize(
    ("quantization", "size", "linears"),
    # nf4: half a byte, and a scale of two bytes for 64 of them.
    [("nf4", 2, 147456 + 9216), ("int8", 2, 294912), ("none", 2, 589824), ("none", 4, 1179648)],
)
def test_a_step_reads_linears_head_adapters_and_contexts(quantization: str, size: int, linears: int) -> None:
    # Two layers of q, k, v, o, gate, up, down; keys and values of 2 heads of 32 in each layer.
    assert 2 * (128 * (128 + 64 + 64 + 128) + 3 * 128 * 256) == 294912
    once, context = linears + 320 * 128 * size, 10 * 2 * 2 * 2 * 32 * size
    tiny = config_of("tiny")
    assert floors.step_bytes(tiny, quantization, 1, 0, 10, size) == once + context
    assert floors.step_bytes(tiny, quantization, 3, 1000, 10, size) == once + 1000 + 3 * context


def test_bandwidth_counts_bytes_both_ways_in_the_shortest_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < floors.copy_bandwidth(CPU) < math.inf
    # The first copy is the shortest, but only warms up.
    times = [t for begun, took in enumerate((0.1, 5, 3, 2, 4, 6)) for t in (10 * begun, 10 * begun + took)]
    monkeypatch.setattr(floors, "time", SimpleNamespace(perf_counter=iter(times).__next__))
    assert floors.copy_bandwidth(CPU) == 2 * (1 << 27) / 2


def base(quantization: str, dtype: torch.dtype = F32, seed: int = 0) -> Decoder:
    return RandomBase("tiny", quantization, dtype, CPU, seed).decoder()


def weights(decoder: Decoder) -> Iterator[Weight]:
    names = ("qkv", "o", "gate_up", "down")
    return (getattr(layer, name).weight for layer in decoder.layers for name in names)


@pytest.mark.parametrize(("quantization", "error"), [("nf4", 0.12), ("int8", 0.02)])
def test_a_seed_draws_the_same_weights_for_every_quantization(quantization: str, error: float) -> None:
    dense, quantized, other = base("none"), base(quantization), base("none", seed=1)
    assert torch.equal(dense.embedding, quantized.embedding)
    assert torch.equal(dense.lm_head.weight.weight, quantized.lm_head.weight.weight)
    triples = list(zip(weights(dense), weights(quantized), weights(other), strict=True))
    assert len(triples) == 8
    for exact, held, foreign in triples:
        assert 0 < (held.dequantize(F32) - exact.weight).norm() / exact.weight.norm() < error
        assert (foreign.weight - exact.weight).norm() > exact.weight.norm()


def test_every_digest_has_its_own_bytes_and_always_the_same() -> None:
    full, half = (RandomAdapters(config_of("tiny"), 16, dtype, False) for dtype in (F32, BF16))
    blobs = [full(str(digest)).flat for digest in range(1, 65)]
    assert len({blob.numpy().tobytes() for blob in blobs}) == 64
    assert torch.equal(full("3").flat, blobs[2])
    # float32's values are those that bfloat16 holds.
    assert torch.equal(half("3").flat.float(), blobs[2])
    # In and out of q, k, v, o, gate, up, down.
    elements = 2 * 16 * (256 + 192 + 192 + 256 + 3 * 384)
    assert blobs[0].numel() == elements
    assert (full.num_bytes, half.num_bytes) == (4 * elements, 2 * elements)


def answers_of(decoder: Decoder) -> list[list[Token]]:
    adapters = RandomAdapters(decoder.config, 8, decoder.embedding.dtype, False)
    config = EngineConfig(base="tiny", adapter_slots=2, max_running=2, cache_tokens=256)
    engine, _ = make_engine(config, decoder, 128, adapters)
    prompts = torch.randint(0, 320, (2, 12), generator=torch.Generator().manual_seed(0)).tolist()
    return InProcess(engine, []).tokens(prompts, ["1", "2"], 4, logprobs=64)


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_in_float32_the_same_weights_say_almost_the_same(quantization: str) -> None:
    rounded = base(quantization, BF16)
    exact = in_float32(rounded)
    for ours, theirs in zip(weights(exact), weights(rounded), strict=True):
        is_dense = isinstance(theirs, DenseWeight)
        assert is_dense is (quantization == "none")
        assert torch.equal(ours.weight, theirs.weight.float()) if is_dense else ours is theirs
    held = [exact.embedding, exact.norm, exact.lm_head.weight.weight, exact.rotary.cos, exact.rotary.sin]
    held += [norm for layer in exact.layers for norm in (layer.attention_norm, layer.mlp_norm)]
    held += [weight.weight for weight in weights(exact) if isinstance(weight, DenseWeight)]
    assert {tensor.dtype for tensor in held} == {F32}
    assert rounded.embedding.dtype == BF16
    told, wanted = answers_of(rounded), answers_of(exact)
    assert 1e-3 < compare(told, told, wanted).slow_error < 0.1
    assert compare(answers_of(base(quantization, BF16, seed=1)), told, wanted).fast_error > 0.5


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tokens, a wide terminal, and a clock on which each step of an engine takes one TICK."""
    real, ticks = Engine.step, [0]

    def counted(engine: Engine) -> Any:
        ticks[0] += 1
        return real(engine)

    monkeypatch.setattr(Engine, "step", counted)
    monkeypatch.setattr(step_bench, "time", SimpleNamespace(perf_counter=lambda: ticks[0] * TICK))
    monkeypatch.setenv("COLUMNS", "200")


def rows(printed: str, columns: int) -> list[list[str]]:
    """Of the tables that have so many columns."""
    lines = [line.split("│")[1:-1] for line in printed.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line] for line in lines if len(line) == columns]


@pytest.mark.usefixtures("ticking")
def test_every_case_is_measured_told_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, names = tmp_path / "step.json", ("nf4", "none")
    sizes = ["--batches", "1,2", "--quantizations", "nf4,none", "--prefill", "64"]
    assert main([*TINY, *sizes, "--json", str(file)]) == 0
    printed, written = capsys.readouterr().out, json.loads(file.read_text())
    once = [("1", "off"), ("1", "none"), ("1", "all")]
    once += [("2", "off"), ("2", "none"), ("2", "one"), ("2", "all")]
    cases = [(name, *case) for name, case in product(names, once)]
    assert [tuple(row[:3]) for row in rows(printed, 9)] == cases
    assert {row[3] for row in rows(printed, 9)} == {f"{TICK * 1e3:.2f}"}
    assert [step_bench.digests(mix, 2) for _, mix in once[3:]] == [["", ""], ["", ""], ["1", "1"], ["1", "2"]]
    steps = written["steps"]
    assert [(s["quantization"], str(s["batch"]), s["mix"]) for s in steps] == cases
    # A token more is a step more, however many requests share it; prompts cancel out.
    assert all(s["step_ms"] == pytest.approx(TICK * 1e3) for s in steps)
    adapter = RandomAdapters(config_of("tiny"), 16, F32, False).num_bytes
    for s, present in zip(steps, [0, 0, 1, 0, 0, 1, 2] * 2, strict=True):
        # Half way between 4 and 7 new tokens after 8 of a prompt.
        shape = (s["quantization"], s["batch"], present * adapter, 8 + 5, 4)
        floor = floors.step_bytes(config_of("tiny"), *shape) / written["bandwidth"]
        assert s["floor_ms"] == pytest.approx(floor * 1e3) and s["floor_ms"] > 0
    shapes = [(p["quantization"], p["mix"], p["prompts"], p["tokens"]) for p in written["prefills"]]
    each = product(names, ("off", "none", "one", "all"), ((2, 64), (1, 32)))
    assert shapes == [(name, mix, *shape) for name, mix, shape in each]
    # All prompts in one step.
    assert all(p["tokens_per_second"] == pytest.approx(p["tokens"] / TICK) for p in written["prefills"])
    assert [(row[0], row[-1]) for row in rows(printed, 8)] == [(name, "agree") for name in names]
    agreements = {name: Agreement(**figures) for name, figures in written["agreements"].items()}
    assert tuple(agreements) == names
    assert all(a.is_explained and a.answers == a.equal == 2 for a in agreements.values())


@pytest.mark.usefixtures("ticking")
def test_answers_with_each_others_adapters_end_in_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, file = step_bench.Bench._make, tmp_path / "step.json"

    def swapped(bench: step_bench.Bench, decoder: Decoder, config: EngineConfig) -> InProcess:
        engine = make(bench, decoder, config)
        if config.kernels == "auto":
            real = engine.tokens
            monkeypatch.setattr(engine, "tokens", lambda p, digests, *a, **k: real(p, digests[::-1], *a, **k))
        return engine

    monkeypatch.setattr(step_bench.Bench, "_make", swapped)
    assert main([*ONLY_CHECK, "--json", str(file)]) == 1
    assert [row[-1] for row in rows(capsys.readouterr().out, 8)] == ["DIFFER"]
    agreement = Agreement(**json.loads(file.read_text())["agreements"]["none"])
    assert agreement.fast_error > 0.01 > NOTHING > agreement.slow_error


def test_wrong_options_end_in_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loadtest", "step", "--model", "huge", "--repeats", "0"]) == 2
    told = "lorikeet: model 'huge' is none of 8b, 1b, small, tiny; repeats 0 must be at least 1\n"
    assert capsys.readouterr() == ("", told)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--batches", "1,x", "must be whole numbers"),
        ("--batches", "0", "must be whole numbers"),
        ("--quantizations", "nf5", "may name nf4, int8, none"),
        ("--mixes", "two", "may name off, none, one, all"),
        ("--prompt", "17000", "at most 16384"),
        ("--prefill", "3", "0 or at least 8"),
        ("--json", "/no/such/folder/file", "no such folder"),
    ],
)
def test_options_are_checked_before_anything_is_measured(
    option: str, value: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY, option, value]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_kernels_need_a_cuda_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loadtest", "kernels"]) == 1
    assert capsys.readouterr().err == "lorikeet: the kernels are for a CUDA device, and there is none here\n"
