"""What may befall a sequence while a step is under way and its next token is not known yet."""

from typing import Any, cast

import pytest
import torch

from server.engine.messages import Abort, Command, Report, Sampling, StepReport, Stop, Submit, Token
from server.engine.process import TICK_SECONDS, Mailbox, serve
from server.engine.runner import Launched, TorchRunner
from server.engine.sampler import Drawn, Row, draw
from server.engine.scheduler import Scheduler
from server.engine.sequence import Chosen, Sequence
from tests.toys import VOCAB, Driven, drive

# Answers that repeat nothing, so that a token says where it belongs.
VARIED: dict[str, Any] = {"temperature": 2.0, "seed": 7}


def prompt_of(seed: int, length: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (length,), generator=generator).tolist()


def overlapped(zoo: Any, **options: Any) -> Driven:
    return drive(zoo.base, zoo.store, overlap="on", **options)


def alone(zoo: Any, prompt: list[int], **options: Any) -> list[int]:
    """The answer of an engine that does one thing after another and caches nothing."""
    driven = drive(zoo.base, zoo.store, overlap="off", prefix_cache=False)
    return driven.answers(driven.submit(prompt, **options))[0]


def scheduler_of(driven: Driven) -> Scheduler:
    return driven.engine._scheduler


def pending(driven: Driven) -> list[Sequence]:
    return [sequence for sequence in scheduler_of(driven).running if sequence.is_pending]


def request(number: int, prompt: list[int], **sampling: Any) -> Submit:
    options = Sampling(**sampling)
    return Submit(id=number, tenant="t", adapter="", tokens=prompt, sampling=options, arrived_at=0.0)


def reasons(driven: Driven) -> dict[int, str]:
    return {number: failure.reason for number, failure in driven.failures.items()}


def assert_nothing_is_held(driven: Driven) -> None:
    stats = driven.engine.stats()
    assert (stats.running, stats.waiting, stats.blocks_used, stats.active) == (0, 0, 0, 0)
    assert driven.engine.is_idle


def test_an_id_aborted_and_asked_again_at_once_gets_nothing_of_the_step_under_way(zoo: Any) -> None:
    driven, new = overlapped(zoo), prompt_of(2, 33)
    asked = driven.submit(prompt_of(1, 20), max_new_tokens=50)
    for _ in range(4):
        driven.step()
    assert len(pending(driven)) == 1 and len(driven.tokens[asked]) == 3
    driven.abort(asked)
    driven.engine.give(request(asked, new, max_new_tokens=12))
    driven.step()
    assert len(driven.tokens[asked]) == 3
    assert driven.answers(asked)[0][3:] == alone(zoo, new)
    assert [t.started is not None for t in driven.tokens[asked][3:]] == [True] + [False] * 11
    assert_nothing_is_held(driven)


def test_after_a_stop_token_nothing_is_given_out_and_what_is_thrown_away_is_not_cached(zoo: Any) -> None:
    """The stop token is a block's last: the block is filled by the step that comes too late."""
    prompt = prompt_of(3, 20)
    free = alone(zoo, prompt, max_new_tokens=20, **VARIED)
    answer, rest = free[:12], free[12:]
    assert answer[-1] not in answer[:-1]
    driven = overlapped(zoo)
    asked = driven.submit(prompt, max_new_tokens=20, stop_token_ids=(answer[-1],), **VARIED)
    while not driven.tokens[asked] or not driven.tokens[asked][-1].finish:
        driven.step()
    assert driven.engine.stats().blocks_used == 0 and not driven.engine.is_idle
    assert driven.answers(asked) == [answer]
    assert driven.engine.stats().tokens_computed == len(prompt) + len(answer)
    assert [token.finish for token in driven.tokens[asked]] == [""] * 11 + ["stop"]
    assert_nothing_is_held(driven)
    again = driven.submit([*prompt, *answer], max_new_tokens=20, answered=12, **VARIED)
    assert driven.answers(again)[0][:8] == rest
    started = driven.tokens[again][0].started
    assert started is not None and started.cached_tokens == 16


def test_the_longest_answer_ends_without_a_step_too_many(zoo: Any) -> None:
    driven = overlapped(zoo)
    asked = [driven.submit(prompt_of(i, 9 + i), max_new_tokens=1, tenant=str(i)) for i in range(3)]
    driven.drain()
    assert [[token.finish for token in driven.tokens[each]] for each in asked] == [["length"]] * 3
    assert (driven.engine.num_steps, driven.engine.stats().tokens_computed) == (1, 9 + 10 + 11)
    assert_nothing_is_held(driven)
    driven.submit(prompt_of(9, 9), max_new_tokens=5)
    driven.drain()
    assert driven.engine.num_steps == 1 + 5


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_a_sequence_that_steps_back_while_its_token_is_pending_loses_and_doubles_none(
    zoo: Any, penalty: float, prefix_cache: bool
) -> None:
    """It is taken in again at once, its token still unknown, unless it has to see the token first."""
    sampling = {**VARIED, "repetition_penalty": penalty, "max_new_tokens": 20}
    prompt, adapter = prompt_of(5, 31), zoo.digests["rank8-rs"]
    driven = overlapped(zoo, prefix_cache=prefix_cache)
    asked = driven.submit(prompt, adapter, **sampling)
    # The base's tokens are sampled before an adapter's.
    driven.submit(prompt_of(6, 9), tenant="other", max_new_tokens=60)
    at_once = []
    while not driven.engine.is_idle:
        driven.step()
        for sequence in pending(driven):
            if sequence.id == asked and sequence.num_answered < 20:
                scheduler_of(driven)._preempt(sequence)
                driven.step()
                at_once.append(sequence.slot is not None)
    assert driven.answers(asked) == [alone(zoo, prompt, adapter=adapter, **sampling)]
    assert [bool(token.finish) for token in driven.tokens[asked]] == [False] * 19 + [True]
    assert len(at_once) >= 9 and set(at_once) == {penalty == 1.0}
    assert_nothing_is_held(driven)


def spoil(monkeypatch: pytest.MonkeyPatch, victim: int, length: int) -> None:
    """The victim's logits are not finite once its tokens are `length`."""

    def draw_spoiled(logits: torch.Tensor, rows: list[Row]) -> Drawn:
        for index, row in enumerate(rows):
            if row.sequence_id == victim and len(row.history) >= length:
                logits[index] = torch.nan
        return draw(logits, rows)

    monkeypatch.setattr("server.engine.runner.draw", draw_spoiled)


def test_logits_that_are_not_finite_fail_one_sequence_a_step_late(
    zoo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [prompt_of(i, 14 + i) for i in range(3)]
    expected = [alone(zoo, prompt, **VARIED) for prompt in prompts]
    driven = overlapped(zoo)
    asked = [driven.submit(prompt, tenant=str(i), **VARIED) for i, prompt in enumerate(prompts)]
    spoil(monkeypatch, asked[1], len(prompts[1]) + 4)
    assert driven.answers(*asked) == [expected[0], expected[1][:4], expected[2]]
    assert reasons(driven) == {asked[1]: "numeric"}
    assert_nothing_is_held(driven)


def test_a_token_that_could_not_be_sampled_breaks_no_step(
    zoo: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a GPU an id out of the table would end the process, and take everybody along."""
    driven = overlapped(zoo)
    spoil(monkeypatch, driven.submit(prompt_of(1, 10)), 12)
    driven.submit(prompt_of(2, 10), tenant="other")
    driven.drain()
    assert "a step over 2 sequences failed" not in caplog.text


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("ends", [True, False])
def test_a_launch_that_raises_waits_for_the_step_under_way(
    zoo: Any, monkeypatch: pytest.MonkeyPatch, ends: bool, others: int
) -> None:
    """Whoever ended with that step has an answer; who goes on fails after its token, and alone."""
    prompts = [prompt_of(10 + i, 12) for i in range(1 + others)]
    expected = [alone(zoo, prompt, **VARIED) for prompt in prompts]
    stop, launch = expected[0][5], TorchRunner.launch
    assert stop not in expected[0][:5]
    driven = overlapped(zoo)
    victim = driven.submit(prompts[0], stop_token_ids=(stop,) * ends, **VARIED)
    fine = [driven.submit(prompt, tenant=str(i), **VARIED) for i, prompt in enumerate(prompts[1:])]

    def launch_broken(self: TorchRunner, chosen: list[Chosen]) -> Launched:
        mine = [c for c in chosen if c.sequence.id == victim]
        if mine and mine[0].start >= len(prompts[0]) + 5:
            raise ZeroDivisionError
        return launch(self, chosen)

    monkeypatch.setattr(TorchRunner, "launch", launch_broken)
    assert driven.answers(victim, *fine) == [expected[0][:6], *expected[1:]]
    assert driven.tokens[victim][-1].finish == ("stop" if ends else "")
    assert reasons(driven) == ({} if ends else {victim: "internal"})
    assert_nothing_is_held(driven)


def likely(token: Token) -> list[float]:
    found = token.logprobs
    return [] if found is None else [found.chosen, *(number for pair in found.top for number in pair)]


def test_a_mixed_crowd_in_a_small_cache_says_and_caches_what_it_does_without_overlap(zoo: Any) -> None:
    """Draws, penalties and log probabilities; and every digest in the prefix cache where there is room."""
    options: list[dict[str, Any]] = [
        {"logprobs": 3},
        {"repetition_penalty": 1.4, "logprobs": 0},
        {**VARIED, "presence_penalty": 0.7, "frequency_penalty": 0.4},
        {**VARIED, "logprobs": 2, "stop_token_ids": tuple(range(3, 60)), "min_new_tokens": 9},
    ]
    prompts = [[*prompt_of(20, 18), *prompt_of(i, 1 + 3 * i)] for i in range(8)]

    def run(overlap: str, **config: Any) -> tuple[list[list[Token]], set[bytes], int]:
        driven = drive(zoo.base, zoo.store, overlap=overlap, step_tokens=24, **config)
        scheduler_of(driven)._prefixes._secret = bytes(32)
        asked = []
        for i, prompt in enumerate(prompts):
            sampling = {"max_new_tokens": 30, **options[i % 4]}
            adapter = zoo.digests["rank4"] if i % 3 else ""
            asked.append(driven.submit(prompt, adapter, tenant=str(i % 2), **sampling))
        driven.drain()
        assert driven.failures == {}
        assert_nothing_is_held(driven)
        answers = [driven.tokens[each] for each in asked]
        return answers, set(scheduler_of(driven).blocks._cached), driven.engine.stats().preemptions

    plain, digests, _ = run("off")
    roomy, same, _ = run("on")
    crowded, _, preemptions = run("on", cache_tokens=160)
    assert same == digests and len(digests) >= 15 and preemptions > 3
    for other in (roomy, crowded):
        for one, two in zip(plain, other, strict=True):
            assert [(t.token, t.finish) for t in one] == [(t.token, t.finish) for t in two]
            for a, b in zip(map(likely, one), map(likely, two), strict=True):
                assert a == pytest.approx(b, abs=1e-4)


def test_an_adapter_may_go_while_the_step_under_way_uses_it(zoo: Any) -> None:
    driven, prompt = overlapped(zoo, adapter_slots=1), prompt_of(30, 20)
    first, second = zoo.digests["rank4"], zoo.digests["layer1-only"]
    expected = [alone(zoo, prompt, adapter=each) for each in (first, second)]
    assert driven.answers(driven.submit(prompt, second)) == [expected[1]]
    gone = driven.submit(prompt, first)
    while len(driven.tokens[gone]) < 3:
        driven.step()
    assert [sequence.request.adapter for sequence in pending(driven)] == [first]
    evictions = driven.engine.stats().adapter_evictions
    driven.abort(gone)
    asked = driven.submit(prompt, second)
    driven.step()
    assert driven.engine.stats().adapter_evictions == evictions + 1
    assert scheduler_of(driven).slots.held() == [second]
    again = driven.submit(prompt, first)
    assert driven.answers(asked, again, gone) == [expected[1], expected[0], expected[0][:3]]


def test_the_process_never_waits_for_a_command_while_a_step_is_under_way(zoo: Any) -> None:
    engine, waits, reports = overlapped(zoo).engine, list[tuple[bool, float]](), list[Report]()
    asked = [request(i, prompt_of(i, 9), max_new_tokens=8, repetition_penalty=1.2) for i in range(2)]

    class Script:
        def take(self, seconds: float) -> list[Command]:
            waits.append((engine._under_way is not None, seconds))
            if len(waits) == 1:
                return [asked[0]]
            if len(waits) == 6:
                return [asked[1], Abort(0)]
            return [Stop()] if (engine.is_idle and seconds) or len(waits) > 99 else []

        def put(self, report: Report) -> None:
            reports.append(report)

    serve(engine, cast(Mailbox, Script()))
    assert set(waits[:-1]) == {(True, 0.0), (False, 0.0)} and waits[-1] == (False, TICK_SECONDS)
    tokens = [token.id for report in reports if isinstance(report, StepReport) for token in report.tokens]
    assert tokens == [0] * tokens.count(0) + [1] * 8 and 0 < tokens.count(0) < 8
