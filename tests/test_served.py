"""The whole house: a real server process asked over gRPC, with transformers and PEFT as judges."""

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from lorikeet import Client
from lorikeet.local import Serving
from tests.toys import make_adapter, reference_answer
from tests.whole import make_whole_base, ready

ADAPTERS: dict[str, dict[str, Any]] = {
    "rank4": {"r": 4},
    "rank8-rs": {"r": 8, "use_rslora": True},
    "patterns": {"r": 16, "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"v_proj": 2}},
    "regex": {"r": 64, "target_modules": r".*\.(q|v)_proj"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whole_base(tmp_path_factory.mktemp("served-base"))


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("served-adapters")
    return {
        name: make_adapter(base, root / name, seed, **o) for seed, (name, o) in enumerate(ADAPTERS.items())
    }


@pytest.fixture(scope="module")
def client(
    base: Path, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    with ready(base, tmp_path_factory.mktemp("served")) as (_, client):
        for name, folder in folders.items():
            client.adapters.upload(folder, name)
        yield client


def test_greedy_tokens_over_grpc_equal_peft_generate(
    client: Client, base: Path, folders: dict[str, Path]
) -> None:
    """Base and all adapters at once, several prompts each, all in the same batches."""
    numbers = random.Random(0)
    prompts = [[numbers.randrange(8, 300) for _ in range(length)] for length in (3, 20, 47)]
    asked = [(name, prompt) for name in ("", *folders) for prompt in prompts]

    def ask(one: tuple[str, list[int]]) -> list[int]:
        options = {"max_new_tokens": 24, "ignore_eos": True}
        return list(client.generate(one[1], adapter=one[0], **options).result().samples[0].token_ids)

    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(ask, asked))
    for (name, prompt), answer in zip(asked, answers, strict=True):
        model = AutoModelForCausalLM.from_pretrained(base)
        oracle = (PeftModel.from_pretrained(model, folders[name]) if name else model).eval()
        assert answer == reference_answer(oracle, prompt, 24, eos_token_id=None), name


def test_streamed_text_is_the_decoded_answer_and_usage_adds_up(client: Client, base: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    generation = client.generate("the cat sat", adapter="rank4", max_new_tokens=20, ignore_eos=True)
    text = "".join(generation)
    result = generation.result()
    sample = result.samples[0]
    assert text == sample.text == tokenizer.decode(sample.token_ids, skip_special_tokens=True)
    assert result.adapter_version == "rank4@1"
    assert (sample.finish_reason, sample.usage.completion_tokens) == ("length", 20)
    assert sample.usage.prompt_tokens == len(client.tokenize("the cat sat"))


def test_seeds_reproduce_samples_and_logprobs_come_along(client: Client) -> None:
    options = {"temperature": 0.8, "seed": 11, "n": 3, "max_new_tokens": 12, "logprobs": 2}
    first = client.generate("hello world", adapter="regex", **options).result()
    again = client.generate("hello world", adapter="regex", **options).result()
    assert [s.token_ids for s in first.samples] == [s.token_ids for s in again.samples]
    assert len({tuple(s.token_ids) for s in first.samples}) > 1
    assert all(len(s.logprobs) == len(s.token_ids) for s in first.samples)


def test_the_set_survives_a_restart_and_a_lost_engine_is_started_again(
    base: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 10, "ignore_eos": True}

    def answers(client: Client) -> list[str]:
        return [client.generate("the mat", adapter=name, **options).text() for name in ("", "rank4", "regex")]

    with ready(base, tmp_path) as (server, client):
        stored = [client.adapters.upload(folders[name], name) for name in ("rank4", "regex")]
        before = answers(client)
        _kill_engine_of(server)
        assert answers(client) == before
    with ready(base, tmp_path) as (_, client):
        assert [(v.id, v.digest) for v in client.adapters.list()] == [(v.id, v.digest) for v in stored]
        assert answers(client) == before


def _kill_engine_of(server: Serving) -> None:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(server.process.pid)], capture_output=True, text=True, check=True
    )
    for pid in listed.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
