"""One accepted request: what its samples share, and what the engine is told of each."""

from collections.abc import Sequence
from dataclasses import dataclass

from adapters.kinds import KINDS
from adapters.store import AdapterVersion
from server.desk import Place
from server.directory import name_for
from server.engine.messages import Sampling, Submit
from server.model.config import FIRST_VIRTUAL
from server.requests import GenerateParams

# Odd, so that all samples of a request have seeds of their own; the golden ratio, so that they are far apart.
SEED_STRIDE = 0x9E3779B97F4A7C15

# The kinds of adapters whose virtual tokens are keys and values.
FILLING_CACHE = frozenset(kind.name for kind in KINDS.values() if kind.fills_cache)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A request after all checks."""

    tenant: str
    params: GenerateParams
    prompt: Sequence[int]
    adapter: AdapterVersion | None
    # The request's, or the one drawn for it.
    seed: int
    # Tokens of prompt and answer together, the adapter's virtual ones not among them.
    max_tokens: int
    # The end-of-sequence tokens of the base, and of the tokenizer in use.
    eos: frozenset[int]
    arrived_at: float
    # What it takes of its tenant's quota, which also says the tenant's weight.
    place: Place
    # Seconds of the monotonic clock.
    deadline: float | None = None

    @property
    def adapter_version(self) -> str:
        if self.adapter is None:
            return ""
        return f"{name_for(self.tenant, self.adapter)}@{self.adapter.version}"

    @property
    def adapter_digest(self) -> str:
        return "" if self.adapter is None else self.adapter.digest

    @property
    def num_virtual(self) -> int:
        """Tokens that the adapter puts before the prompt, of which nobody is told."""
        return 0 if self.adapter is None else self.adapter.manifest.num_virtual_tokens

    @property
    def _kind(self) -> str:
        return "" if self.adapter is None else self.adapter.manifest.kind

    @property
    def context(self) -> Sequence[int]:
        """What the answer's text continues: the prompt, but not the turn before in a conversation."""
        return () if self.params.chat is not None else self.prompt

    def seed_of(self, index: int) -> int:
        """seed + index * stride, modulo 2^64: sample 0 uses the seed itself."""
        return (self.seed + index * SEED_STRIDE) % 2**64

    def submit(self, sequence_id: int, index: int) -> Submit:
        """Sample `index` as a sequence."""
        return Submit(
            id=sequence_id,
            tenant=self.tenant,
            adapter=self.adapter_digest,
            tokens=[*range(FIRST_VIRTUAL, FIRST_VIRTUAL + self.num_virtual), *self.prompt],
            sampling=self._sampling(index),
            arrived_at=self.arrived_at,
            num_virtual=self.num_virtual,
            has_keys=self.num_virtual > 0 and self._kind in FILLING_CACHE,
            weight=self.place.weight,
            priority=self.params.priority,
            deadline=self.deadline,
        )

    def _sampling(self, index: int) -> Sampling:
        params = self.params
        max_new_tokens = min(params.max_new_tokens, self.max_tokens - len(self.prompt))
        stops = {*params.stop_token_ids, *(() if params.ignore_eos else self.eos)}
        return Sampling(
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            repetition_penalty=params.repetition_penalty,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            seed=self.seed_of(index),
            max_new_tokens=max_new_tokens,
            min_new_tokens=min(params.min_new_tokens, max_new_tokens),
            stop_token_ids=tuple(sorted(stops)),
            logprobs=params.logprobs,
        )
