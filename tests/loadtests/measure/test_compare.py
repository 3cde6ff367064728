import numpy as np
import pytest

from loadtests.drive.records import Run
from loadtests.figures import LoadTestError
from loadtests.measure.compare import compare
from tests.loadtests.measure.records import record


def noisy(seed: int, factor: float = 1.0, failing: float = 0.0) -> Run:
    """1000 answers of about 100 ms, in waves that hit whole seconds."""
    numbers = np.random.default_rng(seed)
    waves = numbers.lognormal(0, 0.3, size=100)
    records = []
    for index in range(1000):
        first = 0.1 * factor * waves[index // 10] * numbers.lognormal(0, 0.2)
        made = record(index, index / 10, (first, 1), (first + 0.2 * factor, 4))
        if numbers.random() < failing:
            made.outcome = "unavailable"
        records.append(made)
    return Run("r", "t", 0, 100.0, 0.0, records)


def verdicts(before: Run, after: Run) -> dict[str, str]:
    return {change.figure: change.verdict for change in compare(before, after)}


@pytest.mark.parametrize("seed", range(1, 6))
def test_noise_is_no_change(seed: int) -> None:
    assert set(verdicts(noisy(0), noisy(seed)).values()) == {"same"}


@pytest.mark.parametrize(("factor", "verdict"), [(1.5, "worse"), (0.6, "better")])
def test_a_change_is_seen_through_the_noise(factor: float, verdict: str) -> None:
    found = verdicts(noisy(0), noisy(1, factor))
    assert found["first token p50"] == found["per token p50"] == found["whole answer p90"] == verdict
    assert found["part answered"] == "same"


def test_failures_are_a_change() -> None:
    assert verdicts(noisy(0), noisy(0, failing=0.2))["part answered"] == "worse"


def test_a_tiny_change_is_no_news() -> None:
    assert set(verdicts(noisy(0), noisy(0, 1.01)).values()) == {"same"}


def test_runs_of_other_loads_do_not_compare() -> None:
    other = noisy(0)
    other.records[3].adapter = "another"
    with pytest.raises(LoadTestError, match="other workloads or seeds"):
        compare(noisy(0), other)
