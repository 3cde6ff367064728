"""How fast a model of random weights trains: by the plain loop, and by `lorikeet train`'s own trainer."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import TrainerCallback, set_seed

from loadtests.floors import synchronize
from loadtests.random_causal import random_causal
from training.config import LoraSection, OptimConfig, TrainConfig
from training.distributed.rules import resolve_storage
from training.distributed.world import ALONE, World
from training.encode import Example
from training.methods.learner import learner_over
from training.stopping import Stop
from training.trainer import Job, LearnTrainer

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RATE = 1e-4


@dataclass(frozen=True)
class Case:
    """A rank-`rank` adapter on all linears, `sequences` of `length` tokens a step and process."""

    model: str
    quantization: str
    sequences: int
    length: int
    checkpointing: bool
    rank: int = 16
    # Steps that are not timed, and steps that are.
    warmup: int = 4
    steps: int = 12


@dataclass(frozen=True)
class Trained:
    """Tokens a second of one process, bytes at the peak, nats a token of the steps that were not timed."""

    tokens_per_second: float
    peak_bytes: int
    loss: float


def device_and_type() -> tuple[torch.device, torch.dtype]:
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device()), torch.bfloat16
    return torch.device("cpu"), torch.float32


def plain_loop(case: Case) -> Trained:
    """transformers + PEFT + bitsandbytes as their documentation has them, under autocast."""
    device, dtype = device_and_type()
    set_seed(0)
    model = random_causal(case.model, case.quantization, device, dtype)
    if case.quantization == "nf4":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if case.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    settings = LoraConfig(
        task_type="CAUSAL_LM", r=case.rank, lora_alpha=32, lora_dropout=0.0, target_modules=LINEARS
    )
    adapted = get_peft_model(model, settings).train()
    adapted.config.use_cache = False
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0, fused=True)
    losses, watch = [], Stopwatch(case, device)
    for ids in _batches(case, device):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = adapted(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        watch.step()
    return watch.result(float(torch.stack(losses[: case.warmup]).mean()))


def own_trainer(case: Case, world: World = ALONE) -> Trained:
    """What `lorikeet train` runs once base and rows are there."""
    device, dtype = device_and_type()
    config = _settings(case)
    set_seed(0)
    storage = resolve_storage(config, world, dtype)
    model = random_causal(case.model, case.quantization, device, dtype, storage)
    rows = [row.tolist() for ids in _batches(case, torch.device("cpu"), world.size) for row in ids]
    with tempfile.TemporaryDirectory() as folder:
        examples = [Example(row, row) for row in rows]
        learner = learner_over(model, config, examples, 0, Path(folder), world)
        trainer = LearnTrainer(learner, Job(examples, [], 0), Path(folder), Stop(), None)
        watch = Stopwatch(case, device)
        trainer.add_callback(_Watched(watch))
        trainer.train()
        return watch.result(next(log["loss"] for log in trainer.state.log_history if "loss" in log))


class Stopwatch:
    """Counts steps, and times those after the warm-up; the device is waited for twice."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self._case, self._device = case, device
        self._count = 0
        self._began = self._ended = 0.0

    def step(self) -> None:
        self._count += 1
        if self._count == self._case.warmup:
            synchronize(self._device)
            if self._device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self._device)
            self._began = time.perf_counter()
        if self._count == self._case.warmup + self._case.steps:
            synchronize(self._device)
            self._ended = time.perf_counter()

    def result(self, loss: float) -> Trained:
        case = self._case
        seconds = self._ended - self._began
        peak = torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else 0
        return Trained(case.steps * case.sequences * case.length / seconds, peak, loss)


class _Watched(TrainerCallback):  # type: ignore[misc]
    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._watch.step()


def _settings(case: Case) -> TrainConfig:
    return TrainConfig(
        base=case.model,
        quantization=case.quantization,
        gradient_checkpointing=case.checkpointing,
        fast="auto" if torch.cuda.is_available() else "on",
        lora=LoraSection(rank=case.rank, alpha=32.0, targets=tuple(LINEARS)),
        optim=OptimConfig(
            learning_rate=RATE,
            schedule="constant",
            batch_size=case.sequences,
            max_steps=case.warmup + case.steps,
        ),
        log_every=case.warmup,
    )


def _batches(case: Case, device: torch.device, processes: int = 1) -> Iterator[torch.Tensor]:
    """Ids [sequences, length] of every step, the same for everybody."""
    from loadtests.synthetic import SHAPES

    generator = torch.Generator().manual_seed(0)
    shape = (case.sequences * processes, case.length)
    for _ in range(case.warmup + case.steps):
        yield torch.randint(SHAPES[case.model]["vocab_size"], shape, generator=generator).to(device)
