"""Which sequences the next step advances, and by how many tokens each."""

import time
from collections import Counter
from collections.abc import Callable

from server.engine.adapter_wait import AdapterWait
from server.engine.blocks import BlockPool
from server.engine.deadlines import Deadlines
from server.engine.messages import Failure, Submit, Token
from server.engine.prefixes import Prefixes
from server.engine.queue import FairQueue
from server.engine.sampler import Sampled
from server.engine.sequence import UNKNOWN, Chosen, Sequence
from server.engine.slots import AdapterSlots
from server.engine.supply import AdapterUnavailable

# Of a step that answers go on in: they wait for no more, and on a GPU it still is a graph.
MIXED_TOKENS = 512


class Scheduler:
    def __init__(
        self,
        blocks: BlockPool,
        slots: AdapterSlots,
        max_running: int,
        step_tokens: int,
        drain_after: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.blocks = blocks
        self.slots = slots
        self.queue = FairQueue(slots.is_resident)
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.prefix_queried = 0
        self.prefix_hit = 0
        self._max_running = max_running
        # Every running sequence may decode in every step.
        self._step_tokens = max(step_tokens, max_running)
        self._mixed_tokens = max(min(step_tokens, MIXED_TOKENS), max_running)
        self._by_id: dict[int, Sequence] = {}
        self._failures: list[Failure] = []
        self._deadlines = Deadlines(self._by_id)
        self._prefixes = Prefixes(blocks)
        self._adapter_wait = AdapterWait(slots, drain_after, clock)
        self._clock = clock
        # The queue's, when the slots were last told what to expect.
        self._queue_seen = -1

    def add(self, request: Submit) -> None:
        """A sequence that could never end for want of blocks fails at once."""
        sequence = Sequence.of(request)
        longest = sequence.num_prompt + request.sampling.max_new_tokens
        if self.blocks.blocks_for(longest) > self.blocks.num_blocks:
            what = f"prompt and answer of {longest} tokens do not fit the cache"
            self._failures.append(Failure(sequence.id, "internal", what))
            return
        self._by_id[sequence.id] = sequence
        self._deadlines.add(request)
        self.queue.push(sequence)

    def abort(self, sequence_id: int) -> None:
        """Frees all that the sequence holds; a sequence that has ended already is no error."""
        if (sequence := self._by_id.get(sequence_id)) is not None:
            self._end(sequence)

    def schedule(self) -> list[Chosen]:
        """Running sequences first, then waiting ones as all allows."""
        self._drop_expired()
        self._recall()
        chosen: list[Chosen] = []
        budget = self._budget()
        for sequence in sorted(self.running, key=self._turn):
            if budget and sequence.slot is not None and sequence.can_go_on:
                budget -= self._choose(sequence, budget, chosen)
        # Growing an old prompt may have sent back a newer sequence that was chosen before it.
        chosen = [choice for choice in chosen if choice.sequence.slot is not None]
        self._choose_waiting(budget, chosen)
        return chosen

    def _budget(self) -> int:
        """Tokens of the step: prompts come in smaller pieces where answers wait for them."""
        has_answers = any(sequence.remaining == 1 for sequence in self.running)
        return self._mixed_tokens if has_answers else self._step_tokens

    def _turn(self, sequence: Sequence) -> float:
        """Answers go on first; prompts then, those of tenants who got least."""
        return self.queue.served(sequence.request.tenant) if sequence.remaining > 1 else -1.0

    def _drop_expired(self) -> None:
        for sequence_id in self._deadlines.passed(time.monotonic()):
            self.fail(self._by_id[sequence_id], "deadline", "its deadline passed")

    def _recall(self) -> None:
        """What others left idle a tenant may take; it gives it back when they come, newest sequence first."""
        while len(self.queue) and (borrower := self.queue.borrower(self._max_running)) is not None:
            first = self.queue.first()
            if not self.queue.is_owed(first, borrower) or not self._could_start(first):
                return
            if not self._has_place(first):
                self._preempt(next(s for s in reversed(self.running) if s.request.tenant == borrower))
            elif not self._admit(first):
                return

    def _has_place(self, sequence: Sequence) -> bool:
        return len(self.running) < self._max_running and self._prefixes.fits(sequence)

    def _could_start(self, sequence: Sequence) -> bool:
        """If there were a place."""
        adapter = sequence.request.adapter
        is_there = self.slots.is_resident(adapter) and not self.slots.supply.is_closed(adapter)
        return is_there and sequence.can_go_on

    def _choose_waiting(self, budget: int, chosen: list[Chosen]) -> None:
        self._expect()
        # One that is not there for the first of its sequences is not there for the others.
        missing: set[str] = set()
        for sequence in self.queue.candidates():
            if not budget or len(self.running) >= self._max_running:
                return
            adapter = sequence.request.adapter
            if adapter in missing or self.slots.supply.is_closed(adapter) or not sequence.can_go_on:
                continue
            if not self._prefixes.fits(sequence):
                # Whoever comes after would take the blocks that this one waits for.
                return
            if self._admit(sequence):
                budget -= self._choose(sequence, budget, chosen)
            else:
                missing.add(adapter)

    def _expect(self) -> None:
        """Adapters are read and copied in the order in which their sequences will run."""
        if self._queue_seen != self.queue.num_changes:
            self._queue_seen = self.queue.num_changes
            self.slots.supply.expect(self.queue.adapters())
        self.slots.supply.bring_expected()

    def _choose(self, sequence: Sequence, budget: int, chosen: list[Chosen]) -> int:
        """Appends the sequence's share of the step; returns its tokens."""
        num_tokens = self._grow(sequence, budget)
        if num_tokens:
            samples, written = num_tokens == sequence.remaining, sequence.unwritten
            choice = Chosen(sequence, num_tokens, sequence.computed + written, samples, written)
            chosen.append(choice)
            # A new token costs as much as one computed: answers weigh twice what prompts do.
            self.queue.charge(sequence.request.tenant, num_tokens + choice.samples)
        return num_tokens

    def begin(self, chosen: list[Chosen]) -> None:
        """The step is under way: progress moves on, and the tokens to come are UNKNOWN.

        `chosen` in the order in which the step samples.
        """
        row = 0
        for choice in chosen:
            choice.sequence.computed += choice.written + choice.num_tokens
            if choice.samples:
                choice.sequence.tokens.append(UNKNOWN)
                choice.sequence.pending_row = row
                row += 1

    def commit(self, chosen: list[Chosen], sampled: dict[int, Sampled]) -> list[Token]:
        """The step is done: its tokens take their places; `sampled` is keyed by sequence id."""
        # Who has ended since the step began is dropped.
        alive = (choice for choice in chosen if self._by_id.get(choice.sequence.id) is choice.sequence)
        tokens = (self._commit_one(choice, sampled.get(choice.sequence.id)) for choice in alive)
        return [token for token in tokens if token is not None]

    def _commit_one(self, choice: Chosen, new: Sampled | None) -> Token | None:
        """Its token, if the step sampled one for it."""
        sequence, end = choice.sequence, choice.start + choice.num_tokens
        if new is not None and new.token is None:
            self.fail(sequence, "numeric", "the model's logits are not finite numbers")
            return None
        self._prefixes.publish(sequence, choice.start - choice.written, end)
        if new is None or new.token is None:
            return None
        sequence.tokens[end] = new.token
        finish = sequence.finish_reason(end + 1)
        if finish:
            self._end(sequence)
        return Token(sequence.id, new.token, finish, sequence.take_started(), new.logprobs)

    def fail(self, sequence: Sequence, reason: str, message: str) -> None:
        """The sequence ends without an answer; everybody else goes on."""
        self._failures.append(Failure(sequence.id, reason, message))
        self._end(sequence)

    def take_failures(self) -> list[Failure]:
        failures, self._failures = self._failures, []
        return failures

    def is_idle(self) -> bool:
        return not self._by_id

    def check(self) -> None:
        """Running sequences hold blocks and slots, each its own adapter's, and nobody else does."""
        wrong = [s.id for s in self.running if not self._is_in_place(s)]
        assert not wrong, f"sequences {wrong} run in slots that are not their adapters'"
        self.blocks.check([s.blocks for s in self.running])
        self.slots.check(dict(Counter(s.request.adapter for s in self.running if s.request.adapter)))

    def _is_in_place(self, sequence: Sequence) -> bool:
        adapter = sequence.request.adapter
        held = self.slots.slot_of(adapter), self.slots.generation_of(adapter)
        return held == (sequence.slot, sequence.generation)

    def _admit(self, sequence: Sequence) -> bool:
        """From waiting to running, if its adapter is on the device."""
        request, slot = sequence.request, self._acquire(sequence)
        if slot is None:
            return False
        self.queue.take(sequence)
        self.running.append(sequence)
        sequence.slot = slot
        sequence.generation = self.slots.generation_of(request.adapter) or 0
        sequence.blocks = self._prefixes.match(sequence)
        sequence.computed = len(sequence.blocks) * self.blocks.block_size
        if sequence.first_scheduled_at is None:
            self.prefix_queried += len(sequence.tokens)
            self.prefix_hit += sequence.computed
            sequence.first_scheduled_at = self._clock()
            sequence.cached_tokens = max(0, sequence.computed - request.num_virtual)
        return True

    def _acquire(self, sequence: Sequence) -> int | None:
        try:
            return self._adapter_wait.acquire(sequence)
        except AdapterUnavailable as error:
            self.fail(sequence, "adapter", str(error))
            return None

    def _grow(self, sequence: Sequence, budget: int) -> int:
        """Gets the blocks for this step's tokens, at the cost of the newest sequences if need be.

        Returns how many tokens the step takes; 0 if the sequence itself had to step back.
        """
        num_tokens = min(sequence.remaining, budget)
        end = sequence.computed + sequence.unwritten + num_tokens
        needed = self.blocks.blocks_for(end) - len(sequence.blocks)
        while needed > self.blocks.num_free:
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return 0
        sequence.blocks += [self.blocks.allocate() for _ in range(needed)]
        return num_tokens

    def _preempt(self, sequence: Sequence) -> None:
        """Back to waiting: blocks and slot go, tokens stay and are computed again."""
        self.queue.push_front(sequence)
        self._let_go(sequence)
        sequence.computed = 0
        self.num_preemptions += 1

    def _end(self, sequence: Sequence) -> None:
        if sequence.slot is None:
            self.queue.remove(sequence)
        else:
            self._let_go(sequence)
        del self._by_id[sequence.id]

    def _let_go(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.queue.leave(sequence.request.tenant)
        self.blocks.release(sequence.blocks)
        self.slots.release(sequence.request.adapter)
        sequence.blocks = []
        sequence.slot = None
