from __future__ import annotations

import pickle

import adapters
from adapters import AdapterError, InvalidAdapter


def test_the_tree_is_closed() -> None:
    public = [
        value for value in vars(adapters).values() if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert all(issubclass(error, AdapterError) for error in public)


def test_every_problem_is_kept_and_told() -> None:
    error = InvalidAdapter(["one", "two"])
    assert error.problems == ("one", "two")
    assert str(error) == "The adapter cannot be served: one; two"
    assert pickle.loads(pickle.dumps(error)).problems == error.problems


def test_a_flood_of_problems_is_cut() -> None:
    error = InvalidAdapter(["x" * 10_000] * 10_000)
    assert error.problems[-1] == "and 9981 more problems"
    assert len(str(error)) < 7000
    assert InvalidAdapter(error.problems).problems == error.problems
