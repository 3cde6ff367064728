"""`make bench`: this server against transformers + PEFT, on this machine, in one run.

16 requests at once over 8 adapters, the same prompts and lengths for all; float32, greedy. Rounds are
interleaved, so that whatever else the machine does hits every contender; the median round counts.
"""

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from transformers import AutoModelForCausalLM

from loadtests.figures import Bar, print_table, write_figures
from loadtests.inproc import InProcess
from loadtests.peft_peer import PeftPeer
from loadtests.served import Served
from training.demo.base import build_base

BATCH, NUM_ADAPTERS, RANK = 16, 8, 8
PROMPT_TOKENS, NEW_TOKENS, ROUNDS = 64, 128, 5
BARS = (Bar("speedup_over_peft_mixed", 3.0), Bar("grpc_over_engine", 0.9))

Answers = list[list[int]]


@dataclass(frozen=True)
class Round:
    """One burst: every request's prompt and the index of its adapter."""

    prompts: list[list[int]]
    adapters: list[int]

    @classmethod
    def make(cls, seed: int, vocab: int) -> "Round":
        numbers = random.Random(seed)
        prompts = [[numbers.randrange(8, vocab) for _ in range(PROMPT_TOKENS)] for _ in range(BATCH)]
        return cls(prompts, [index % NUM_ADAPTERS for index in range(BATCH)])


def make_adapters(base: Path, root: Path) -> list[Path]:
    """Random rank-8 adapters on all linears: speed does not depend on what they say."""
    folders = []
    for index in range(NUM_ADAPTERS):
        torch.manual_seed(index)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        config = LoraConfig(r=RANK, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        peft = get_peft_model(model, config)
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, 0.0, 0.05)
        folders.append(root / f"adapter-{index}")
        peft.save_pretrained(folders[-1])
    return folders


Contender = Callable[[Round], Answers]


def measure(contenders: dict[str, Contender], vocab: int) -> dict[str, float]:
    """Tokens per second of each; every contender's first round warms it up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    answers: dict[str, Answers] = {}
    with Console(stderr=True).status("") as status:
        for number in range(ROUNDS + 1):
            burst = Round.make(number, vocab)
            for name, contender in contenders.items():
                status.update(f"round {number} of {ROUNDS}: {name}")
                begun = time.perf_counter()
                answers[name] = contender(burst)
                if number:
                    seconds[name].append(time.perf_counter() - begun)
            check_same(answers)
    return {name: BATCH * NEW_TOKENS / statistics.median(times) for name, times in seconds.items()}


def check_same(answers: dict[str, Answers]) -> None:
    """A fast wrong answer is worth nothing: all contenders must say the same."""
    for name, said in answers.items():
        if said != next(iter(answers.values())):
            raise SystemExit(f"{name} answers differently from {next(iter(answers))}")


def figures_of(speed: dict[str, float]) -> dict[str, float]:
    served = speed["server, gRPC"]
    return {
        "speedup_over_peft_mixed": served / speed["PEFT, mixed batch"],
        "speedup_over_peft_sequential": served / speed["PEFT, one at a time"],
        "grpc_over_engine": served / speed["engine, in process"],
        "server_tokens_per_second": served,
    }


def main() -> int:
    base = build_base(Path(".lorikeet/demo/base"))
    with tempfile.TemporaryDirectory(prefix="lorikeet-bench-") as root:
        return run(base, Path(root))


def run(base: Path, root: Path) -> int:
    folders = make_adapters(base, root)
    vocab = int(AutoModelForCausalLM.from_pretrained(base).config.vocab_size)
    with asyncio.Runner() as runner, Served(runner, base, root, folders) as served:
        engine = InProcess.of_store(base, root / "store", served.digests)
        peer = PeftPeer(base, folders)
        speed = measure(
            {
                "engine, in process": lambda r: engine.answer(r.prompts, r.adapters, NEW_TOKENS),
                "server, gRPC": lambda r: served.answer(r.prompts, r.adapters, NEW_TOKENS),
                "PEFT, mixed batch": lambda r: peer.mixed(r.prompts, r.adapters, NEW_TOKENS),
                "PEFT, one at a time": lambda r: peer.one_by_one(r.prompts, r.adapters, NEW_TOKENS),
            },
            vocab,
        )
    report(speed)
    return 0 if write_figures(figures_of(speed), BARS) else 1


def report(speed: dict[str, float]) -> None:
    best = speed["server, gRPC"]
    rows: Sequence[Sequence[str]] = [
        (name, f"{value:,.0f}", f"{best / value:.2f}x") for name, value in speed.items()
    ]
    title = f"{BATCH} requests over {NUM_ADAPTERS} adapters, {PROMPT_TOKENS} + {NEW_TOKENS} tokens, float32"
    print_table(title, ("", "tokens/s", "server is"), rows)


if __name__ == "__main__":
    sys.exit(main())
