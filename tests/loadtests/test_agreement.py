"""When a fast engine may differ from a slow one, and when it may not."""

import math

import pytest

from loadtests.agreement import MARGIN, NONE, NOTHING, Agreement, compare
from server.engine.messages import Logprobs, Token

NAN = math.nan


def said(token: int, top: dict[int, float], chosen: float | None = None) -> Token:
    return Token(1, token, logprobs=Logprobs(top[token] if chosen is None else chosen, list(top.items())))


def test_equal_answers_agree() -> None:
    answers = [[said(5, {5: -0.1, 7: -3.0})], [said(7, {7: -0.2, 5: -2.0})]]
    agreement = compare(answers, answers, answers)
    assert agreement == Agreement(2, 2, 0.0, pytest.approx(NONE), pytest.approx(NONE), 0.0)  # type: ignore[arg-type]
    assert agreement.row() == ("2", "2", "0.0000", "0.0000", "0.0000", "0.0000", "agree")


@pytest.mark.parametrize(("gap", "is_tie"), [(0.019, True), (0.021, False)])
def test_a_first_difference_is_explained_only_inside_a_tie(gap: float, is_tie: bool) -> None:
    slow, top = {5: -1.0, 7: -1.0 - gap}, {5: -1.01, 7: -1.0 - gap}
    agreement = compare([[said(7, top)]] * 2, [[said(5, slow)], [said(7, slow)]], [[said(5, top)]] * 2)
    assert agreement.widest_gap == pytest.approx(gap)
    assert agreement.largest_slow_error == pytest.approx(0.01)
    assert (agreement.answers, agreement.equal) == (2, 1)
    assert agreement.fast_error == pytest.approx(NONE)
    assert agreement.is_explained is is_tie
    assert agreement.row()[-1] == ("agree" if is_tie else "DIFFER")


def test_a_token_that_is_not_among_the_likeliest_is_infinitely_far() -> None:
    slow, exact = {5: -1.0, 7: -1.001}, {5: -1.01}
    fast = [[said(7, slow)], [said(9, {9: -1.0, 5: -1.0})]]
    agreement = compare(fast, [[said(5, slow)]] * 2, [[said(5, exact)]] * 2)
    assert agreement.widest_gap == math.inf
    assert agreement.fast_error == agreement.slow_error == pytest.approx(0.01)
    assert not agreement.is_explained


def test_errors_are_counted_only_while_tokens_agree() -> None:
    exact = [said(5, {5: -1.0}), said(5, {5: -1.0, 7: -1.0}), said(5, {5: -1.0})]
    slow = [said(5, {5: -1.1}), said(5, {5: -1.1, 7: -1.3}), said(5, {5: -1.5})]
    fast = [said(5, {5: -1.2}), said(7, {5: -1.1, 7: -1.3}), said(5, {5: -9.0})]
    agreement = compare([fast], [slow], [exact])
    # The token that differs still follows the same ones.
    assert agreement.fast_error == pytest.approx(math.sqrt((0.2**2 + 0.1**2 + 0.3**2) / 3))
    assert agreement.slow_error == pytest.approx(math.sqrt((0.1**2 + 0.1**2 + 0.3**2 + 0.5**2) / 4))
    assert agreement.largest_slow_error == pytest.approx(0.5)


@pytest.mark.parametrize(("slow_error", "limit"), [(0.1, 0.1 * MARGIN), (0.0, NOTHING)])
def test_equal_tokens_do_not_excuse_being_further_from_float32(slow_error: float, limit: float) -> None:
    slow, exact = [[said(5, {5: -1.0 - slow_error})]], [[said(5, {5: -1.0})]]
    near, far = (compare([[said(5, {5: -1.0 - e * limit})]], slow, exact) for e in (0.99, 1.01))
    assert near.equal == far.equal == 1
    assert far.fast_error == pytest.approx(1.01 * limit)
    assert near.is_explained and not far.is_explained


@pytest.mark.parametrize(("num_wrong", "is_explained"), [(1, True), (13, False)])
def test_one_answer_that_tipped_over_is_not_what_an_adapter_s_every_answer_is(
    num_wrong: int, is_explained: bool
) -> None:
    """Of 92 answers over seven adapters."""
    exact, slow = [[said(5, {5: -1.0})]] * 92, [[said(5, {5: -1.05})]] * 91 + [[said(5, {5: -2.0})]]
    fast = [[said(5, {5: -2.0 if number < num_wrong else -1.05})] for number in range(92)]
    assert compare(fast, slow, exact).is_explained is is_explained


BEST, TIE = {5: -1.0, 7: -1.001}, {7: -1.001, 5: -1.0}


@pytest.mark.parametrize(
    ("fast", "slow", "exact"),
    [
        (said(5, {5: NAN}), said(5, BEST), said(5, BEST)),
        (said(5, BEST), said(5, {5: NAN}), said(5, BEST)),
        (said(5, BEST), said(5, BEST), said(5, {5: NAN})),
        (said(5, {5: NAN}), said(5, {5: NAN}), said(5, {5: NAN})),
        (said(5, {5: -1.0, 7: NAN}), said(5, BEST), said(5, BEST)),
        (said(5, {5: -1.0, 9: NAN}), said(5, BEST), said(5, BEST)),
        (said(7, TIE), said(5, BEST, NAN), said(5, BEST)),
        (said(5, {9: -1.0}, -1.0), said(5, BEST), said(5, BEST)),
    ],
)
def test_log_probabilities_that_are_no_numbers_never_pass(fast: Token, slow: Token, exact: Token) -> None:
    # Before it: an answer that differs inside a tie.
    tie = said(7, TIE), said(5, BEST), said(5, {5: -1.01, 7: -0.99})
    assert compare(*([[token]] for token in tie)).is_explained
    answers = ([[first], [second]] for first, second in zip(tie, (fast, slow, exact), strict=True))
    assert not compare(*answers).is_explained
