"""On a CPU in float32 a job's bits are the same whoever trains beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as limits
from hypothesis import strategies as st
from torch import Tensor

from tests.training.concurrent.conftest import MakeBase, rows_of, settings
from training.concurrent.batch import make_batch
from training.concurrent.feed import portions
from training.concurrent.rows import Rows
from training.concurrent.trainer import ConcurrentTrainer
from training.concurrent.weights import AdapterWeights
from training.config import TrainConfig

# A job by its seed, and the pass before which it comes.
JOINS = st.tuples(st.integers(0, 40), st.integers(0, 4))
Course = dict[int, list[Tensor]]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def courses(trainer: ConcurrentTrainer, joins: dict[int, list[tuple[TrainConfig, Rows]]]) -> Course:
    """Each job's weights after each pass, by its seed; `joins` says who comes before which pass."""
    course: Course = {}
    for number in range(50):
        for config, rows in joins.pop(number, []):
            trainer.join(config, rows)
        if not joins and not trainer.jobs and not trainer._waiting:
            return course
        before = list(trainer.jobs) + list(trainer._waiting)
        ended = trainer.step()
        assert all(outcome.error is None for outcome in ended), ended
        for job in before:
            course.setdefault(job.config.seed, []).append(job.weights.flat.detach().clone())
    raise AssertionError("jobs that never end")


def equal(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(("quantization", "num_threads"), [("none", 1), ("nf4", 1), ("int8", 1), ("none", 2)])
def test_gradients_are_those_of_each_alone(
    shared: MakeBase, config: TrainConfig, quantization: str, num_threads: int
) -> None:
    base = shared(quantization)
    jobs = [(settings(config, number), rows_of(number)) for number in range(4)]
    batches = [next(portions(rows.train, config.optim, config.seed)) for config, rows in jobs]

    def gradients(chosen: Sequence[int]) -> list[Tensor]:
        adapters = [AdapterWeights(base, jobs[index][0]) for index in chosen]
        for adapter in adapters:
            with torch.no_grad():
                adapter.flat.add_(0.01)
        batch = make_batch([batches[index].rows for index in chosen], 0, base.device)
        base.learn(batch, [each.pairs() for each in adapters], [batches[index].count for index in chosen])
        return [each.flat.grad for each in adapters if each.flat.grad is not None]

    with threads(num_threads):
        together = gradients(range(4))
        alone = [gradients([index])[0] for index in range(4)]
        turned = gradients([3, 1, 0])
    assert all(bool(grad.any()) for grad in together)
    assert equal(together, alone)
    assert equal(turned, [alone[3], alone[1], alone[0]])


@limits(
    max_examples=3,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(JOINS, min_size=2, max_size=4, unique_by=lambda join: join[0]))
def test_who_comes_and_goes_changes_no_bit_of_the_others(
    trainer: ConcurrentTrainer, config: TrainConfig, plan: list[tuple[int, int]]
) -> None:
    joins: dict[int, list[tuple[TrainConfig, Rows]]] = {}
    for number, when in plan:
        joins.setdefault(when, []).append(
            (settings(config, number, max_steps=1 + number % 3, warmup_steps=0), rows_of(number))
        )
    wanted = {config.seed: (config, rows) for jobs in joins.values() for config, rows in jobs}
    found = courses(trainer, joins)
    for seed, job in wanted.items():
        assert equal(found[seed], courses(trainer, {0: [job]})[seed])


def test_the_data_of_one_job_changes_no_bit_of_another(
    trainer: ConcurrentTrainer, config: TrainConfig
) -> None:
    mine = (settings(config, 1), rows_of(1))
    with_one, with_another = (
        courses(trainer, {0: [mine, (settings(config, 2), rows_of(seed, num_rows=count))]})
        for seed, count in ((7, 6), (8, 9))
    )
    assert equal(with_one[1], with_another[1])
    assert not equal(with_one[2], with_another[2])


def test_a_job_that_fails_takes_nobody_along(trainer: ConcurrentTrainer, config: TrainConfig) -> None:
    good, wild = settings(config, 1), settings(config, 2, learning_rate=1e30, warmup_steps=0, clip=0.0)
    alone = courses(trainer, {0: [(good, rows_of(1))]})[1]
    trainer.join(wild, rows_of(2))
    survivor = trainer.join(good, rows_of(1))
    ended = trainer.run()
    assert {outcome.name: type(outcome.error).__name__ for outcome in ended} == {
        "job2": "Diverged",
        "job1": "NoneType",
    }
    assert torch.equal(survivor.weights.flat, alone[-1])
    assert not wild.output.exists() and not list(wild.output.parent.glob(".*partial"))
