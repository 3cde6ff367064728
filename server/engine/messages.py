"""What front and engine say to each other. Nothing else crosses between the two processes."""

import msgspec

from adapters.manifest import BaseShapes

# The tiers to which adapters are brought.
HOST, DEVICE = "host", "device"


class Sampling(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """How one sequence's tokens are chosen; checked by the front, trusted by the engine."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    max_new_tokens: int = 256
    min_new_tokens: int = 0
    # End-of-sequence tokens included, unless the request ignores them.
    stop_token_ids: tuple[int, ...] = ()
    # None: no log probabilities; k: the chosen token's and the k likeliest ones'.
    logprobs: int | None = None

    @property
    def needs_history(self) -> bool:
        """Whether the next token depends on which ones came before, and not on the logits alone."""
        return self.repetition_penalty != 1.0 or bool(self.presence_penalty or self.frequency_penalty)

    @property
    def is_greedy(self) -> bool:
        """Whether the next token is the likeliest one, and nothing else is asked."""
        plain = self.temperature == 0 and self.min_new_tokens == 0 and self.logprobs is None
        return plain and not self.needs_history


class Submit(msgspec.Struct, frozen=True, array_like=True, tag=True, kw_only=True):
    """Start one sequence. Times are seconds of the monotonic clock, which all processes share."""

    id: int
    tenant: str
    # Content digest; empty for the base.
    adapter: str
    tokens: list[int]
    sampling: Sampling
    arrived_at: float
    # How many of `tokens` are an answer already given out (a resubmission after a lost engine).
    num_answered: int = 0
    # How many of `tokens`, the first, are the adapter's virtual ones: FIRST_VIRTUAL and on.
    num_virtual: int = 0
    # Whether their keys and values come with the adapter, and are not computed.
    has_keys: bool = False
    # The tenant's share beside others, and which of its own sequences go first: the higher ones.
    weight: float = 1.0
    priority: int = 0
    # After which nobody wants the answer any more.
    deadline: float | None = None


class Prepare(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Make an uploaded adapter ready for the base as it is served, beside the running steps.

    folder: where its files are. manifest: of its check, in JSON.
    """

    id: int
    folder: str
    manifest: str


class Abort(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Free whatever the sequence holds; no word about it follows."""

    id: int


class Warm(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Bring the adapter to a tier, HOST or DEVICE, once there is room; it may be evicted again."""

    digest: str
    tier: str


class Pin(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Bring the adapter to a tier and keep it there until `Unpin`; a second pin moves the first."""

    digest: str
    tier: str


class Unpin(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """It may be evicted again; no error if it was not pinned."""

    digest: str


class Stop(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Leave the loop and exit."""


Command = Submit | Prepare | Abort | Warm | Pin | Unpin | Stop


class Started(msgspec.Struct, frozen=True, array_like=True):
    """Told with a sequence's first token."""

    cached_tokens: int
    queue_seconds: float
    load_seconds: float


class Logprobs(msgspec.Struct, frozen=True, array_like=True):
    """Natural log probabilities before penalties and temperature; `top` likeliest first."""

    chosen: float
    top: list[tuple[int, float]]


class Token(msgspec.Struct, frozen=True, array_like=True):
    """One new token of one sequence. `finish` is "", "stop" or "length"."""

    id: int
    token: int
    finish: str = ""
    started: Started | None = None
    logprobs: Logprobs | None = None


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """The sequence ended without an answer. `reason`: "adapter" (its weights could not be loaded),
    "numeric" (its logits are not finite), "deadline" (its own passed) or "internal"."""

    id: int
    reason: str
    message: str


class Refused(msgspec.Struct, frozen=True, array_like=True):
    """The adapter cannot be warmed or pinned, and is not pinned any more; the message says why."""

    digest: str
    message: str


class Stats(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The engine's gauges, and counters since its start."""

    running: int
    waiting: int
    blocks_used: int
    blocks_total: int
    slots_total: int
    # Adapters that running sequences hold.
    active: int
    steps: int
    tokens_computed: int
    preemptions: int
    prefix_queried_tokens: int
    prefix_hit_tokens: int
    adapter_loads: int
    adapter_load_seconds: float
    adapter_evictions: int
    # Of the device's memory for adapters; 0 where they are used from host memory.
    adapter_bytes: int = 0
    adapter_bytes_free: int = 0
    # In which the engine had nothing to do but wait for the device.
    device_wait_seconds: float = 0.0


class Moved(msgspec.Struct, frozen=True, array_like=True):
    """Where an adapter is from now on, and whether sequences wait that run on it."""

    digest: str
    on_host: bool
    on_device: bool
    is_awaited: bool


class Prepared(msgspec.Struct, frozen=True, array_like=True):
    """What came of a Prepare. manifest: as it now is. problems: of the adapter. failure: of the server."""

    id: int
    manifest: str = ""
    problems: tuple[str, ...] = ()
    failure: str = ""


class StepReport(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """One message for each step. Of adapters it says what has changed since the one before."""

    tokens: list[Token]
    failures: list[Failure]
    stats: Stats
    prepared: list[Prepared] = []
    moved: list[Moved] = []
    # All that stand: of those warmed or pinned and not asked for again since. None: as before.
    refusals: list[Refused] | None = None


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=True, kw_only=True):
    """The first message of an engine: the base is loaded, and this is what it is."""

    family: str
    vocab_size: int
    # What adapters are checked against.
    shapes: BaseShapes
    block_size: int
    num_blocks: int
    adapter_slots: int
    max_rank: int
    max_context: int
    dtype: str
    device: str
    load_seconds: float


class Broken(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The engine cannot start or go on; the process exits after this."""

    message: str


Report = StepReport | Ready | Broken
