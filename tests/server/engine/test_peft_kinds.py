"""Adapters of every kind that PEFT makes, from the store, in one batch: they answer as PEFT does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from server.job import FILLING_CACHE
from server.model.config import FIRST_VIRTUAL
from server.model.loader import load_decoder
from tests.adapters.test_kinds import SERVED
from tests.peft_kinds import KINDS, PROMPT_KINDS
from tests.server.engine.test_kinds import hold_as_served
from tests.toys import VOCAB, Driven, drive, store_adapter

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning"
)
NUM_TOKENS, NUM_VIRTUAL = 8, 5
# A tied base, and one whose linears have biases.
BASES = [("llama", "none"), ("qwen2", "nf4"), ("qwen2", "int8")]


@dataclass(frozen=True)
class House:
    """A base as it is served, a store with an adapter of every kind, and what PEFT says to each prompt."""

    base: Path
    store: Path
    quantization: str
    digests: dict[str, str]
    answers: dict[str, list[int]]

    def drive(self, **options: Any) -> Driven:
        options = {"quantization": self.quantization, "adapter_slots": 64, **options}
        return drive(self.base, self.store, **options)

    def ask(self, driven: Driven, kind: str, **options: Any) -> int:
        prompt = prompt_of(kind)
        if kind in PROMPT_KINDS:
            prompt = [*(FIRST_VIRTUAL + i for i in range(NUM_VIRTUAL)), *prompt]
            options |= {
                "num_virtual": NUM_VIRTUAL,
                "has_keys": kind in FILLING_CACHE or kind == "prefix_projection",
            }
        return driven.submit(prompt, self.digests[kind], max_new_tokens=NUM_TOKENS, **options)


def prompt_of(kind: str) -> list[int]:
    generator = torch.Generator().manual_seed(sum(map(ord, kind)))
    return torch.randint(3, VOCAB, (18 + len(kind),), generator=generator).tolist()


@torch.inference_mode()
def peft_answer(model: Any, prompt: list[int], says_added: bool) -> list[int]:
    """Greedy, without a cache."""
    ids = list(prompt)
    for _ in range(NUM_TOKENS):
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        ids.append(int(logits[: None if says_added else VOCAB].argmax()))
    return ids[len(prompt) :]


@pytest.fixture(scope="module", params=BASES, ids=lambda each: "-".join(each))
def house(request: Any, bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> House:
    family, quantization = request.param
    base, root = bases[family], tmp_path_factory.mktemp("kinds")
    decoder = load_decoder(base, quantization, torch.float32, torch.device("cpu"))
    digests, answers = {}, {}
    for kind in SERVED:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        hold_as_served(model, decoder)
        # A base of no name: PEFT then saves the rows that were trained, and not the tables around them.
        model.name_or_path = model.config._name_or_path = ""
        peft = KINDS[kind](model, root / kind)
        if kind == "adalora_pruned":
            # The mask works from the next load on.
            peft = PeftModel.from_pretrained(peft.unload(), root / kind)
        # The head of an untied base gets no row for a token that was added.
        answers[kind] = peft_answer(peft.eval(), prompt_of(kind), says_added=family == "llama")
        digests[kind] = store_adapter(root / "store", base, root / kind, kind.replace("_", "-"))
    return House(base, root / "store", quantization, digests, answers)


def test_one_batch_of_all_kinds_answers_as_peft_does(house: House) -> None:
    driven = house.drive()
    asked = {kind: house.ask(driven, kind, tenant=kind) for kind in SERVED}
    driven.drain()
    assert driven.failures == {}
    found = {kind: [token.token for token in driven.tokens[i]] for kind, i in asked.items()}
    assert found == house.answers


def test_few_slots_and_small_steps_change_nothing(house: House) -> None:
    driven = house.drive(adapter_slots=3, step_tokens=16, cache_tokens=512)
    asked = {kind: house.ask(driven, kind, tenant=kind) for kind in SERVED}
    driven.drain()
    assert driven.failures == {}
    found = {kind: [token.token for token in driven.tokens[i]] for kind, i in asked.items()}
    assert found == house.answers
