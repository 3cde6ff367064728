"""Whether a server computes what the trainer computed: log probabilities of the same tokens, side by side.

The server answers a prompt greedily and tells its likeliest tokens at each place; the trainer's model reads
prompt and answer in one pass. Both have seen the same tokens before each place, so one place where they
disagree moves no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorikeet.client import Client
from lorikeet.errors import InvalidRequest
from lorikeet.types import Sample
from training.data import Row
from training.publish.live import ask
from training.publish.plan import PublishPlan
from training.publish.trained import Trained

EXACT, ROUNDED = 1e-3, 0.25
_TOP = 20


@dataclass(frozen=True, slots=True)
class Parity:
    """In nats. `largest` and `mean` difference over `num_values` log probabilities.

    `effect` is the largest that the adapter makes to its base: canaries that it leaves alone tell nothing.
    """

    largest: float
    mean: float
    effect: float
    tolerance: float
    num_prompts: int
    num_values: int

    def problems(self) -> list[str]:
        """Why the version cannot be taken for what was trained, one sentence each."""
        # Not <=, so that a NaN is a problem.
        if not self.largest <= self.tolerance:
            return [
                f"the server's log probabilities differ from the trainer's by up to {self.largest:.4g} nats, "
                f"and {self.tolerance:g} are tolerated: is it the base, in the quantization, that was "
                "trained on?"
            ]
        if not self.effect > self.tolerance:
            return [
                f"the adapter changes no canary's log probabilities by more than {self.effect:.4g} nats, so "
                "nothing shows that the server applies it: train it longer, or hold out other rows"
            ]
        return []


def find_parity(trained: Trained, client: Client, adapter: str, plan: PublishPlan) -> Parity:
    """Compares the first `plan.prompts` held-out prompts over `plan.tokens` tokens each."""
    prompts = [trained.prompt_ids(row) for row in trained.held[: plan.prompts]]
    results = ask(client, adapter, prompts, max_new_tokens=plan.tokens, logprobs=_TOP, ignore_eos=True)
    differences, effects = list[Tensor](), list[Tensor]()
    for prompt, result in zip(prompts, results, strict=True):
        ours, base = log_probabilities(trained, prompt, result.samples[0].token_ids)
        places, tokens, theirs = told(result.samples[0])
        differences.append((ours[places, tokens] - theirs).abs())
        effects.append((ours - base)[places, tokens].abs())
    every = torch.cat(differences)
    return Parity(
        largest=float(every.max()),
        mean=float(every.mean()),
        effect=float(torch.cat(effects).max()),
        tolerance=_tolerance(trained, client, plan),
        num_prompts=len(prompts),
        num_values=len(every),
    )


def told(sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
    """Places (int64), tokens (int64) and log probabilities (float32) of all that the server named."""
    named = [(place, entry) for place, entries in enumerate(sample.logprobs) for entry in entries.top]
    places, tokens = ([pair[0] for pair in named], [pair[1].token_id for pair in named])
    return torch.tensor(places), torch.tensor(tokens), torch.tensor([pair[1].logprob for pair in named])


@torch.no_grad()
def log_probabilities(trained: Trained, prompt: Sequence[int], said: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Float32 [len(said), vocab] by the adapter and by the base alone: what stood before each token said."""
    ids = torch.tensor([[*prompt, *said[:-1]]], device=trained.model.device)
    ours = trained.model(input_ids=ids).logits
    with trained.model.disable_adapter():
        base = trained.model(input_ids=ids).logits
    # From the end: learned prompts stand before the tokens.
    return _distributions(ours, len(said)), _distributions(base, len(said))


def _distributions(logits: Tensor, count: int) -> Tensor:
    return logits[0, -count:].float().log_softmax(dim=-1).cpu()


def _tolerance(trained: Trained, client: Client, plan: PublishPlan) -> float:
    if plan.tolerance is not None:
        return plan.tolerance
    both = {client.model().dtype, str(trained.model.dtype).removeprefix("torch.")}
    return EXACT if both == {"float32"} else ROUNDED


def text_problems(trained: Trained, client: Client, adapter: str, rows: Sequence[Row]) -> list[str]:
    """Where the server makes other tokens of a prompt than training did, as one sentence."""
    for row in rows:
        prompt = row.prompt if trained.is_chat else row.prompt[0]["content"]
        try:
            theirs = client.tokenize(prompt, adapter=adapter)
        except InvalidRequest as error:
            return [f"the server takes no prompt like line {row.line}'s: {error}"]
        if theirs != trained.prompt_ids(row):
            return [
                f"the server makes other tokens of line {row.line}'s prompt than training did: serve the "
                "tokenizer and chat template that the adapter was trained with, or save them beside it"
            ]
    return []
