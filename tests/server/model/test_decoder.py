"""The decoder against transformers, the packed adapters against PEFT."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from adapters.format import inspect
from adapters.prepared import load
from server.kernels.attention import AttentionPlan, Chunk
from server.kernels.lora import Segment
from server.model.adapter import AdapterBlob
from server.model.blob import make_blob
from server.model.config import ModelConfig, UnsupportedModel
from server.model.decoder import Decoder, KvCache
from server.model.linears import LoraStep
from server.model.loader import Checkpoint, load_decoder
from server.model.packs import pack
from server.model.shapes import base_shapes
from server.model.step import Step
from tests.toys import FAMILIES, SMALL, VOCAB, make_adapter, make_model

CPU = torch.device("cpu")


def load_base(folder: Path, quantization: str = "none") -> Decoder:
    return load_decoder(folder, quantization, torch.float32, CPU)


@torch.inference_mode()
def forward(decoder: Decoder, prompts: list[list[int]], lora: LoraStep | None = None) -> list[Tensor]:
    """All logits of prompts packed into one step."""
    config, total = decoder.config, sum(map(len, prompts))
    shape = (total, config.num_kv_heads, config.head_dim)
    cache = KvCache(
        [torch.zeros(shape) for _ in decoder.layers], [torch.zeros(shape) for _ in decoder.layers]
    )
    chunks, start = [], 0
    for prompt in prompts:
        end = start + len(prompt)
        causal = torch.ones(len(prompt), len(prompt), dtype=torch.bool).tril()
        chunks.append(Chunk(start, end, torch.arange(start, end), causal))
        start = end
    step = Step(
        token_ids=torch.tensor([t for p in prompts for t in p]),
        positions=torch.cat([torch.arange(len(p)) for p in prompts]),
        attention=AttentionPlan(torch.arange(total), None, chunks),
        lora=lora,
        sampled=torch.arange(total),
    )
    return list(decoder.forward(step, cache).split([len(p) for p in prompts]))


def blob_of(folder: Path, decoder: Decoder) -> AdapterBlob:
    """A PEFT folder in the decoder's shape."""
    shapes = base_shapes(decoder.config)
    manifest = inspect(folder, shapes, 256)
    return make_blob(load(folder, manifest, shapes, 256), decoder.config, torch.float32)


def prompts_of(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in lengths]


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_logits_equal_transformers(family: str, bases: dict[str, Path]) -> None:
    oracle = AutoModelForCausalLM.from_pretrained(bases[family]).eval()
    prompts = prompts_of(100, 1, 37)
    for prompt, ours in zip(prompts, forward(load_base(bases[family]), prompts), strict=True):
        torch.testing.assert_close(ours, oracle(torch.tensor([prompt])).logits[0], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_packed_batch_of_base_and_adapters_equals_peft_one_by_one(zoo: Any) -> None:
    decoder = load_base(zoo.base)
    names = ["", *zoo.folders]
    prompts = prompts_of(*range(9, 9 + 5 * len(names), 5))
    blobs = [blob_of(folder, decoder) for folder in zoo.folders.values()]
    segments, start = [], len(prompts[0])
    for index, prompt in enumerate(prompts[1:]):
        segments.append(Segment(start, start + len(prompt), index))
        start += len(prompt)
    answers = forward(decoder, prompts, LoraStep(pack(blobs, decoder.config), segments))
    for name, prompt, ours in zip(names, prompts, answers, strict=True):
        expected = zoo.oracle(name)(torch.tensor([prompt])).logits[0]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert not torch.allclose(answers[1], zoo.oracle("")(torch.tensor([prompts[1]])).logits[0], atol=1e-2)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@torch.inference_mode()
def test_a_quantized_base_with_an_adapter_equals_peft_over_the_same_dequantized_weights(
    quantization: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    """Qwen2, so biases are there too."""
    folder = make_adapter(bases["qwen2"], tmp_path / "adapter", seed=3, r=8)
    decoder = load_base(bases["qwen2"], quantization)
    oracle = AutoModelForCausalLM.from_pretrained(bases["qwen2"]).eval()
    for layer, ours in zip(oracle.model.layers, decoder.layers, strict=True):
        qkv = ours.qkv.weight.dequantize(torch.float32).split((64, 32, 32))  # type: ignore[attr-defined]
        gate_up = ours.gate_up.weight.dequantize(torch.float32).chunk(2)  # type: ignore[attr-defined]
        attention, mlp = layer.self_attn, layer.mlp
        held = (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj)
        for linear, weight in zip(held, (*qkv, *gate_up), strict=True):
            assert not torch.equal(linear.weight, weight)
            linear.weight.copy_(weight)
        attention.o_proj.weight.copy_(ours.o.weight.dequantize(torch.float32))  # type: ignore[attr-defined]
        mlp.down_proj.weight.copy_(ours.down.weight.dequantize(torch.float32))  # type: ignore[attr-defined]
    plain, adapted = prompts_of(50, 30)
    lora = LoraStep(pack([blob_of(folder, decoder)], decoder.config), [Segment(50, 80, 0)])
    ours_plain, ours_adapted = forward(decoder, [plain, adapted], lora)
    expected = oracle(torch.tensor([plain])).logits[0]
    torch.testing.assert_close(ours_plain, expected, rtol=0, atol=1e-4)
    peft = PeftModel.from_pretrained(oracle, folder).eval()
    expected = peft(torch.tensor([adapted])).logits[0]
    torch.testing.assert_close(ours_adapted, expected, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_a_checkpoint_that_bitsandbytes_quantized_is_read_byte_for_byte(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    recipe = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    quantized = AutoModelForCausalLM.from_pretrained(bases["llama3"], quantization_config=recipe)
    quantized.save_pretrained(tmp_path)
    saved, fresh = load_base(tmp_path, "nf4"), load_base(bases["llama3"], "nf4")
    for ours, again in zip(saved.layers, fresh.layers, strict=True):
        for linear in ("qkv", "o", "gate_up", "down"):
            a, b = getattr(ours, linear).weight, getattr(again, linear).weight
            assert torch.equal(a.codes, b.codes)
            assert torch.equal(a.absmax, b.absmax)
    with pytest.raises(UnsupportedModel, match="start with quantization nf4"):
        load_base(tmp_path)


def test_shards_and_untied_heads_are_found(tmp_path: Path) -> None:
    model = make_model("qwen2")
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    (prompt,) = prompts_of(20)
    with torch.inference_mode():
        expected = model(torch.tensor([prompt])).logits[0]
    torch.testing.assert_close(forward(load_base(tmp_path), [prompt])[0], expected, rtol=0, atol=1e-5)


def test_a_tied_base_with_a_head_of_its_own_uses_it(bases: dict[str, Path], tmp_path: Path) -> None:
    """As transformers does: what the checkpoint brings counts, unless it is the embedding again."""
    shutil.copytree(bases["llama"], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    head = tensors["model.embed_tokens.weight"].flip(0).contiguous()
    save_file({**tensors, "lm_head.weight": head}, file, {"format": "pt"})
    oracle = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    (prompt,) = prompts_of(9)
    with torch.inference_mode():
        expected = oracle(torch.tensor([prompt])).logits[0]
    torch.testing.assert_close(forward(load_base(tmp_path), [prompt])[0], expected, rtol=0, atol=1e-5)


def test_files_that_the_index_does_not_name_are_left_alone(tmp_path: Path) -> None:
    model = make_model("qwen2")
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    (tmp_path / "z-stale.safetensors").write_bytes(b"not a checkpoint")
    assert "model.norm.weight" in Checkpoint(tmp_path)


def test_what_cannot_be_served_is_refused_by_name(tmp_path: Path, bases: dict[str, Path]) -> None:
    with pytest.raises(UnsupportedModel, match="'gpt2'.*llama, mistral, qwen2, qwen3"):
        ModelConfig.from_hf(AutoConfig.for_model("gpt2"))
    with pytest.raises(UnsupportedModel, match="gelu"):
        ModelConfig.from_hf(AutoConfig.for_model("llama", **SMALL, hidden_act="gelu"))
    nested = SimpleNamespace(
        **{
            **SMALL,
            "model_type": "llama",
            "hidden_act": "silu",
            "rope_parameters": {"full": {"rope_theta": 1.0}},
        }
    )
    with pytest.raises(UnsupportedModel, match="differ by layer"):
        ModelConfig.from_hf(nested)
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(UnsupportedModel, match="dynamic"):
        ModelConfig.from_hf(AutoConfig.for_model("llama", **SMALL, rope_parameters=rope))
    with pytest.raises(UnsupportedModel, match="'fp4' is none of"):
        load_base(bases["llama"], "fp4")
    with pytest.raises(UnsupportedModel, match="no safetensors"):
        Checkpoint(tmp_path)


def test_a_sliding_window_bounds_the_context() -> None:
    config = AutoConfig.for_model("mistral", **SMALL, sliding_window=128)
    assert ModelConfig.from_hf(config).max_context == 128
