"""Each claim can be borne out, missed and contradicted, where its rule has room for all three."""

import math

import pytest

from loadtests.claims.published import CLAIMS
from loadtests.claims.verdicts import Claim, Span, Verdict, judged

TENFOLD = Claim("ten times the rate", "somebody", "ratio", "best rates", Span(5, 20), Span(most=1))


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (5, "reproduced"),
        (20, "reproduced"),
        (3, "not reproduced"),
        (100, "not reproduced"),
        (1, "wrong"),
        (0.3, "wrong"),
    ],
)
def test_a_figure_speaks_for_a_claim_or_against_it_or_neither(value: float, verdict: str) -> None:
    assert TENFOLD.verdict(value) == verdict


def test_only_claims_with_a_figure_are_judged() -> None:
    (found,) = judged(CLAIMS, {"rank_matters": 3.0, "of no claim": 1.0})
    assert (found.claim.figure, found.value, found.verdict) == ("rank_matters", 3.0, Verdict.REPRODUCED)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.figure)
def test_no_figure_is_for_a_claim_and_against_it(claim: Claim) -> None:
    ends = [end for end in (claim.holds.least, claim.holds.most) if math.isfinite(end)]
    assert ends and all(claim.verdict(end) is Verdict.REPRODUCED for end in ends)
    beyond = [claim.verdict(far) for far in (-1e9, 1e9)]
    assert any(verdict is not Verdict.REPRODUCED for verdict in beyond)


def test_each_claim_has_a_figure_of_its_own() -> None:
    assert len({claim.figure for claim in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize(
    ("span", "text"), [(Span(2), ">= 2"), (Span(most=1), "<= 1"), (Span(0.6, 0.73), "0.6 to 0.73")]
)
def test_a_span_in_words(span: Span, text: str) -> None:
    assert str(span) == text
