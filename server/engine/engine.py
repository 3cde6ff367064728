"""The engine: take in, poll adapter copies, schedule, launch, fetch, commit, give out."""

import logging
import math
import time
from collections import deque

import torch

from server.engine.bell import Bell
from server.engine.config import EngineConfig
from server.engine.laps import Laps
from server.engine.messages import (
    Abort,
    Command,
    Pin,
    Prepare,
    Stats,
    StepReport,
    Submit,
    Token,
    Unpin,
    Warm,
)
from server.engine.pins import Pins
from server.engine.preparer import Preparer
from server.engine.runner import Launched, Runner
from server.engine.scheduler import Scheduler
from server.engine.sequence import Chosen

log = logging.getLogger(__name__)


class Engine:
    """Runs on whatever thread calls `step`; knows nothing of processes, keys or protobuf.

    overlap: a step is launched while the one before it is under way; its tokens come a turn later.
    """

    def __init__(
        self,
        config: EngineConfig,
        scheduler: Scheduler,
        runner: Runner,
        preparer: Preparer,
        overlap: bool = False,
        bell: Bell | None = None,
    ) -> None:
        # Rings when a turn of the loop may find something that it could not do before.
        self.bell = bell or Bell()
        self.num_steps = 0
        # For the device, over all steps.
        self.seconds_waited = 0.0
        self._scheduler = scheduler
        self._pins = Pins(scheduler.slots)
        self._runner = runner
        self._preparer = preparer
        self._inbox: deque[Command] = deque()
        self._overlap = overlap
        self._under_way: Launched | None = None
        # A device that is waited for within the turn may take its time.
        self._laps = Laps() if overlap else Laps(math.inf)
        # For the next report.
        self._tokens: list[Token] = []
        self._debug_checks = config.debug_checks
        self._num_computed = 0

    def give(self, command: Command) -> None:
        """Taken in at the start of the next step."""
        self._inbox.append(command)

    @property
    def is_idle(self) -> bool:
        is_at_rest = self._under_way is None and self._preparer.is_idle
        return not self._inbox and is_at_rest and self._scheduler.is_idle()

    def step(self) -> StepReport:
        """One turn of the loop; an empty report where nothing could run."""
        self._laps.start()
        self._take_in()
        self._scheduler.slots.supply.poll()
        self._pins.advance()
        chosen = self._scheduler.schedule()
        self._laps.lap("scheduled")
        launched = self._launch(chosen) if chosen else None
        self._laps.lap("launched")
        self._commit()
        self._under_way = launched
        if not self._overlap:
            self._commit()
        self._laps.lap("committed")
        if self._debug_checks or (not chosen and self._scheduler.is_idle()):
            self._scheduler.check()
        if self.is_idle:
            self._runner.rest()
        self._laps.lap("rested")
        self._laps.end(len(chosen), sum(choice.num_tokens for choice in chosen))
        tokens, self._tokens = self._tokens, []
        return StepReport(
            tokens,
            self._scheduler.take_failures(),
            self.stats(),
            self._preparer.take(),
            self._scheduler.slots.supply.take_moved(),
            self._pins.take_refusals(),
        )

    def close(self) -> None:
        self._runner.close()
        self._scheduler.slots.close()
        self._preparer.close()
        self.bell.close()

    def _take_in(self) -> None:
        while self._inbox:
            command = self._inbox.popleft()
            if isinstance(command, Submit):
                self._scheduler.add(command)
            elif isinstance(command, Prepare):
                self._preparer.begin(command)
            elif isinstance(command, Abort):
                self._scheduler.abort(command.id)
            elif isinstance(command, (Warm, Pin, Unpin)):
                self._pins.give(command)

    def _launch(self, chosen: list[Chosen]) -> Launched | None:
        """A step that fails is taken apart, so that only the sequence at fault fails."""
        try:
            launched = self._runner.launch(chosen)
        except torch.AcceleratorError:
            # The device is in no state to go on: the process ends, and the next one takes over.
            raise
        except Exception as error:
            log.exception("a step over %d sequences failed", len(chosen))
            self._commit()
            if len(chosen) > 1:
                self._launch_apart(chosen)
            # What was under way may have ended it.
            elif chosen[0].sequence.slot is not None:
                what = f"the step failed: {type(error).__name__}"
                self._scheduler.fail(chosen[0].sequence, "internal", what)
            return None
        self._scheduler.begin(launched.chosen)
        self.num_steps += 1
        self._num_computed += sum(choice.num_tokens for choice in chosen)
        return launched

    def _launch_apart(self, chosen: list[Chosen]) -> None:
        """One after another, to the end."""
        for choice in chosen:
            if choice.sequence.slot is not None:
                self._under_way = self._launch([choice])
                self._commit()

    def _commit(self) -> None:
        """Waits for the step under way."""
        if self._under_way is not None:
            launched, self._under_way = self._under_way, None
            begun = time.monotonic()
            sampled = launched.fetch()
            self.seconds_waited += time.monotonic() - begun
            self._tokens += self._scheduler.commit(launched.chosen, sampled)

    def stats(self) -> Stats:
        s = self._scheduler
        return Stats(
            running=len(s.running),
            waiting=len(s.queue),
            blocks_used=s.blocks.num_used,
            blocks_total=s.blocks.num_blocks,
            slots_total=s.slots.num_slots,
            active=s.slots.num_held,
            steps=self.num_steps,
            tokens_computed=self._num_computed,
            preemptions=s.num_preemptions,
            prefix_queried_tokens=s.prefix_queried,
            prefix_hit_tokens=s.prefix_hit,
            adapter_loads=s.slots.supply.num_loads,
            adapter_load_seconds=s.slots.load_seconds,
            adapter_evictions=s.slots.supply.num_evictions,
            adapter_bytes=s.slots.num_bytes,
            adapter_bytes_free=s.slots.num_bytes_free,
            device_wait_seconds=self.seconds_waited,
        )
