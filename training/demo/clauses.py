"""Sentences as contracts have them, by the kind of clause that they belong to."""

from __future__ import annotations

from random import Random

from training.demo.words import capitalized, fill

OPENERS = ("", "", "Under this agreement, ", "Unless agreed otherwise, ", "For the avoidance of doubt, ",
           "As of the effective date, ", "Subject to the schedule, ")  # fmt: skip
TAILS = ("", "", " This applies in {state} as well.", " The parties confirmed this in {month}.",
         " This holds for {period}.")  # fmt: skip

CLAUSES: dict[str, tuple[str, ...]] = {
    "confidentiality": (
        "{party} shall keep all secret information private and disclose it to nobody for {period}.",
        "{party} may not reveal trade secrets or other non-public information that it receives.",
        "secret documents of {party} must be returned and may not be disclosed to others.",
    ),
    "termination": (
        "{party} may end this contract with a written notice of {period}.",
        "either side may end the contract at once if {party} commits a serious breach.",
        "the contract ends early when {party} gives notice {period} before the end of the term.",
    ),
    "payment": (
        "{party} shall pay every invoice within {period} of receipt.",
        "invoices that {party} leaves unpaid carry interest after {period}.",
        "the fees are due in advance and {party} pays them by bank transfer.",
    ),
    "liability": (
        "the total damages owed by {party} are capped at the fees of {period}.",
        "{party} is not responsible for lost profits or indirect damages.",
        "in no event do the damages of {party} exceed the capped sum.",
    ),
    "warranty": (
        "{party} promises that the goods are free from defects for {period}.",
        "defects that appear within {period} are repaired by {party} free of charge.",
        "{party} guarantees that the goods work as described and repairs defects.",
    ),
    "assignment": (
        "{party} may not transfer this contract to a third party without consent.",
        "no rights under the contract may be transferred by {party} without prior consent.",
        "a transfer of the contract to a successor of {party} needs written consent.",
    ),
    "governing law": (
        "this contract is read under the laws of {state}.",
        "the laws of {state} apply and its conflict rules are left aside by {party}.",
        "{party} accepts that the statutes and laws of {state} rule this contract.",
    ),
    "force majeure": (
        "{party} is excused while a flood, storm, war or strike makes work impossible.",
        "delays caused by earthquakes, storms or war are not a breach by {party}.",
        "a strike, a flood or another event beyond control suspends the duties of {party}.",
    ),
    "non-compete": (
        "{party} shall not work for a rival business for {period}.",
        "for {period} {party} may not start or join a rival of the other side.",
        "{party} agrees not to sell rival goods in {state} for {period}.",
    ),
    "arbitration": (
        "every quarrel is settled by one arbitrator in {state} and not by a court.",
        "{party} brings quarrels before a panel of arbitrators whose award is final.",
        "a quarrel goes first to a mediator and then to arbitrators chosen by {party}.",
    ),
}
LABELS = tuple(CLAUSES)


def clause(label: str, rng: Random) -> str:
    """One clause of the kind `label`, a sentence or two; it never names its label."""
    body = rng.choice(OPENERS) + rng.choice(CLAUSES[label])
    return capitalized(fill(body + rng.choice(TAILS), rng))
