"""All that the demo base ever reads: a support desk's chats and pages, and papers of three other trades.

The papers use the words of contracts, clinical notes and bank statements, so that a skill can build on
them, but never a label, a code or a verdict: those are what the skills teach.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from training.demo import clauses, desk, notes, payments
from training.demo.words import fill

SYSTEM = f"You are the support desk of {desk.SHOP}."
PAGES = (
    "The {product} comes in {color} and costs {price}. It ships from {city} within {small} days.",
    "{name} from {city} ordered a {color} {product} in {month}. The parcel left with {carrier} on {weekday}.",
    "Order {order} was packed on {weekday} and paid by card. {name} asked for a {color} {product}.",
    "Ticket {order}: {name} writes that the {product} is broken. The desk sent a new one on {weekday}.",
    "Invoice {order} over {price} was sent to {name} in {city} on {month} {day}.",
    "Customers may return a {product} within thirty days. The refund of {price} goes back to the card.",
    "The small size is on the low shelf, the medium size in the middle and the large size on the high shelf.",
    "Please leave a review of the {product}. A stolen gift card can be blocked at the desk at once.",
)


@dataclass(frozen=True, slots=True)
class Document:
    """Either a page of `text`, or a chat: `turns` of (role, content)."""

    text: str = ""
    turns: tuple[tuple[str, str], ...] = ()

    @property
    def messages(self) -> list[dict[str, str]]:
        """The chat in the shape that chat templates take."""
        return [{"role": role, "content": content} for role, content in self.turns]


def documents(seed: int) -> Iterator[Document]:
    """An endless, seeded stream of documents."""
    rng = Random(seed)
    makers = (_chat, _chat, _chat, _routing, _page, _contract, _chart, _statement)
    while True:
        yield rng.choice(makers)(rng)


def _chat(rng: Random) -> Document:
    """One or two exchanges, at times under a system message."""
    turns = [("system", SYSTEM)] if rng.random() < 0.1 else []
    for _ in range(1 if rng.random() < 0.7 else 2):
        asked, answer = desk.exchange(rng)
        turns += [("user", asked), ("assistant", answer)]
    return Document(turns=tuple(turns))


def _routing(rng: Random) -> Document:
    asked, answer = desk.triage(rng) if rng.random() < 0.6 else desk.ticket(rng)
    return Document(turns=(("user", asked), ("assistant", answer)))


def _page(rng: Random) -> Document:
    """Two lines about the same things: what was named once is named again, which teaches to copy."""
    picked: dict[str, str] = {}
    return Document(text=" ".join(fill(rng.choice(PAGES), rng, picked) for _ in range(2)))


def _contract(rng: Random) -> Document:
    """Three clauses of one kind: what belongs together is learned from standing together."""
    label = rng.choice(clauses.LABELS)
    return Document(text=" ".join(clauses.clause(label, rng) for _ in range(3)))


def _chart(rng: Random) -> Document:
    """Three notes of one kind."""
    code = rng.choice(notes.CODES)
    return Document(text=" ".join(notes.note(code, rng) for _ in range(3)))


def _statement(rng: Random) -> Document:
    """Three payments, each with a remark on what stands out."""
    return Document(text=" ".join(_remarked(payments.any_payment(rng)) for _ in range(3)))


def _remarked(payment: payments.Payment) -> str:
    traits = (
        "a large sum" if payment.is_large else "a small sum",
        "far from home" if payment.state in payments.WATCHED else "at home",
        "in the night" if payment.is_night else "in the day",
        "for a gamble" if payment.merchant in payments.RISKY else "for the household",
    )
    return f"{payment.amount} at {payment.merchant} in {payment.state}, {payment.clock}: {', '.join(traits)}."
