"""One request's tokens and its progress."""

from dataclasses import dataclass, field

from server.engine.messages import Started, Submit

UNKNOWN = -1


@dataclass(eq=False)
class Sequence:
    """Progress is a number: `computed` chases `len(tokens)`.

        tokens    | prompt ............... | answer ... |
        computed  | keys and values in the cache ... |
        blocks    | block | block | block | block ...   |

    Prefill, a chunk of it, a prefix found in the cache, decoding and recomputing after preemption
    differ only in how far the two are apart. While a step is under way, the token that it samples stands
    at the end as UNKNOWN: the step after can be prepared, and finds it on the device.
    """

    request: Submit
    tokens: list[int]
    num_prompt: int
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    # Chained digests of the full blocks seen so far; the chain starts at the tenant's and adapter's salt.
    block_hashes: list[bytes] = field(default_factory=list)
    slot: int | None = None
    # Of the slot, when it was taken hold of.
    generation: int = 0
    # The row, among those that the step under way samples, of the token that is UNKNOWN.
    pending_row: int = 0
    # Seconds of the monotonic clock.
    load_asked_at: float | None = None
    # Since when its adapter has been read and found no room on the device.
    blocked_at: float | None = None
    load_seconds: float = 0.0
    first_scheduled_at: float | None = None
    cached_tokens: int = 0
    started: bool = False

    @classmethod
    def of(cls, request: Submit) -> "Sequence":
        return cls(request, list(request.tokens), len(request.tokens) - request.num_answered)

    @property
    def id(self) -> int:
        return self.request.id

    @property
    def num_answered(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def unwritten(self) -> int:
        """Tokens before the next one to compute whose keys come with the adapter and are not written yet."""
        return max(0, self.request.num_virtual - self.computed) if self.request.has_keys else 0

    @property
    def remaining(self) -> int:
        """Tokens to compute."""
        return len(self.tokens) - self.computed - self.unwritten

    @property
    def is_pending(self) -> bool:
        return self.tokens[-1] == UNKNOWN

    @property
    def can_go_on(self) -> bool:
        """Whether a next step makes sense before the last one's token is known."""
        sampling = self.request.sampling
        return not self.is_pending or (
            self.num_answered < sampling.max_new_tokens and not sampling.needs_history
        )

    def finish_reason(self, length: int) -> str:
        """ "stop", "length", or "" while the answer goes on; looks at the last of the first `length`."""
        sampling = self.request.sampling
        answered = length - self.num_prompt
        if answered > sampling.min_new_tokens and self.tokens[length - 1] in sampling.stop_token_ids:
            return "stop"
        return "length" if answered >= sampling.max_new_tokens else ""

    def take_started(self) -> Started | None:
        """Said once, with the first token."""
        if self.started:
            return None
        self.started = True
        assert self.first_scheduled_at is not None, "a sequence has a token but was never scheduled"
        queued = self.first_scheduled_at - self.request.arrived_at
        return Started(self.cached_tokens, queued, self.load_seconds)


@dataclass(frozen=True)
class Chosen:
    """The step computes `num_tokens` of the sequence's tokens, from `start` on.

    samples: it reaches the last token, so that a new one follows. written: tokens just before `start` whose
    keys and values, which come with the adapter, go to the cache in the same step.
    """

    sequence: Sequence
    num_tokens: int
    start: int
    samples: bool
    written: int = 0
