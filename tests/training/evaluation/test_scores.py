from __future__ import annotations

import pytest

from training.evaluation.scores import score


def test_right_answers_are_exact_but_for_blanks_around_them() -> None:
    result = score([" red", "blue\n", "Red", "green "], ["red", "blue", "red", "white"])
    assert (result.accuracy, result.num_rows) == (0.5, 4)


def test_f1_counts_each_label_the_same_and_made_up_ones_only_as_misses() -> None:
    # a: precision 1, recall 3/4 -> 6/7; b: precision 1/1, recall 1 -> 1
    assert score(["a", "a", "a", "?", "b"], ["a", "a", "a", "a", "b"]).f1 == pytest.approx((6 / 7 + 1) / 2)
    assert score(["a"] * 5, ["a", "a", "a", "a", "b"]).f1 == pytest.approx((8 / 9 + 0) / 2)
