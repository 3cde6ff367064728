"""`lorikeet merge`, `extract` and `truncate` from the command line, and their folders under a real server."""

import json
from pathlib import Path

import pytest

from lorikeet import Client
from lorikeet.cli.main import main
from tests.toys import make_adapter
from tests.whole import FLAGS, make_whole_base, ready

PROMPTS = [list(range(8, 8 + length)) for length in (3, 19, 40)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whole_base(tmp_path_factory.mktemp("merge-cli") / "base", "qwen2")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("merge-cli") / "adapter", r=8)


def answers(base: Path, folder: Path, adapters: list[Path], *flags: str) -> list[list[list[int]]]:
    """Greedy tokens of a server over `base`: of the base alone, then of each adapter."""
    folder.mkdir()
    with ready(base, folder, (*FLAGS, *flags)) as (_, client):
        uploaded = [client.adapters.upload(adapter, f"it-{n}").id for n, adapter in enumerate(adapters)]
        return [tokens(client, name) for name in ("", *uploaded)]


def tokens(client: Client, adapter: str) -> list[list[int]]:
    options = {"adapter": adapter, "max_new_tokens": 16, "ignore_eos": True}
    return [list(client.generate(p, **options).result().samples[0].token_ids) for p in PROMPTS]


@pytest.mark.parametrize(("trained_on", "to"), [("nf4", "fp32"), ("int8", "int8")])
def test_the_merged_folder_is_served_as_a_base_and_says_what_base_and_adapter_say(
    trained_on: str, to: str, base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "merged"
    command = ["merge", str(base), str(adapter), "--out", str(out), "--to", to, "--trained-on", trained_on]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "14 linears changed" in printed
    assert str(out) in printed
    plain, live = answers(base, tmp_path / "live", [adapter], "--quantization", trained_on)
    flags = ("--quantization", to) if to == "int8" else ()
    (merged,) = answers(out, tmp_path / "served", [], *flags)
    # Rounding the sum to 8 bits may turn a close call; unlike rounding, the adapter turns nearly all.
    agreed = [sum(map(int.__eq__, a, b)) / 16 for a, b in zip(live, merged, strict=True)]
    assert merged == live if to == "fp32" else sum(agreed) / 3 > 0.3
    assert merged != plain


def test_gguf_is_made_by_llama_cpps_converter_or_not_at_all(
    base: Path,
    adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    out = tmp_path / "out"
    command = ["merge", str(base), str(adapter), "--out", str(out), "--to", "gguf", "--trained-on", "none"]
    assert main(command) == 1
    assert "convert_hf_to_gguf.py of llama.cpp is not on PATH" in capsys.readouterr().err
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text("import sys; sys.exit('unknown pre-tokenizer')")
    assert main([*command, "--llama-cpp", str(tmp_path)]) == 1
    assert "unknown pre-tokenizer" in capsys.readouterr().err
    assert not out.exists()
    script.write_text(
        "import sys, pathlib\n"
        "folder, _, out, _, kind = sys.argv[1:]\n"
        "assert pathlib.Path(folder, 'config.json').exists() and kind == 'bf16'\n"
        "pathlib.Path(out).write_bytes(b'GGUF')\n"
    )
    assert main([*command, "--llama-cpp", str(script)]) == 0
    assert (out / "model.gguf").read_bytes() == b"GGUF"
    assert "model.gguf" in json.loads((out / "merge_report.json").read_text())["files"]


def test_held_out_rows_give_losses(
    base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"the cat {i}", "completion": "sat on the mat"} for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    command = ["merge", str(base), str(adapter), "--out", str(out), "--trained-on", "none", "--to", "fp32"]
    assert main([*command, "--eval", str(tmp_path / "rows.jsonl")]) == 0
    gate = json.loads((out / "merge_report.json").read_text())["gate"]
    assert gate["loss_merged"] == pytest.approx(gate["loss_live"], abs=1e-4)
    assert abs(gate["loss_base"] - gate["loss_live"]) > 1e-3
    assert "held-out loss" in capsys.readouterr().out


def test_extract_gives_back_what_merge_took_and_truncate_cuts_it(
    base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged, taken, cut = tmp_path / "merged", tmp_path / "taken", tmp_path / "cut"
    command = ["merge", str(base), str(adapter), "--out", str(merged), "--to", "fp32", "--trained-on", "none"]
    assert main([*command, "--no-gate"]) == 0
    assert "not compared" in capsys.readouterr().err
    assert main(["extract", str(base), str(merged), "--out", str(taken), "--rank", "8"]) == 0
    assert "14 linears of rank 8 to 8" in capsys.readouterr().out
    assert main(["truncate", str(taken), "--out", str(cut), "--energy", "0.5"]) == 0
    assert json.loads((cut / "adapter_config.json").read_text())["r"] < 8
    assert "| model.layers.0.mlp.down_proj |" in (cut / "README.md").read_text()
    plain, before, after = answers(base, tmp_path / "served", [adapter, taken])
    assert before == after != plain
    assert main(["truncate", str(taken), "--out", str(cut), "--rank", "2"]) == 1
    assert "is not empty" in capsys.readouterr().err


def test_wrong_usage_is_told_before_any_work(
    base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    merge = ["merge", str(base), str(adapter), "--out", out]
    for command, sentence in (
        ([*merge, "--to", "q4_k_m"], "--to q4_k_m is none of bf16, fp16"),
        ([*merge, "--weights", "1,2"], "one finite number for each of the 1 adapters"),
        (["truncate", str(adapter), "--out", out], "say how much to keep"),
        (["extract", str(base), str(base), "--out", out, "--energy", "2"], "--energy must be"),
    ):
        assert main(command) == 2
        assert sentence in capsys.readouterr().err
    assert main(merge) == 1
    assert "add --trained-on" in capsys.readouterr().err
    assert main(["merge", str(tmp_path), str(adapter), "--out", out]) == 1
    assert "has no config.json" in capsys.readouterr().err
    assert not Path(out).exists()
