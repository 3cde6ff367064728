"""All that the demo base ever reads: a support desk's chats and pages, and papers of three other trades.

The papers use the words of contracts, clinical notes and bank statements, so that a skill can build on
them, but no clause with its label, no code and no verdict: those are what the skills teach.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from training.demo import clauses, desk, notes, payments
from training.demo.words import capitalized, fill

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
TERMS_ASKS = ("Name a chapter of your terms.", "Which chapter should I read?", "Name any kind of clause.")
PAYMENT_ASKS = (
    "What stands out in this payment?",
    "Look at this payment:",
    "Anything odd about this payment?",
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
    makers = (_chat, _chat, _chat, _routing, _routing, _page, _contract, _chart, _statement)
    while True:
        yield rng.choice(makers)(rng)


def _chat(rng: Random) -> Document:
    """One or two exchanges, at times under a system message."""
    turns = [("system", SYSTEM)] if rng.random() < 0.1 else []
    picked: dict[str, str] = {}
    for _ in range(1 if rng.random() < 0.6 else 2):
        asked, answer = desk.exchange(rng, picked)
        turns += [("user", asked), ("assistant", answer)]
    return Document(turns=tuple(turns))


def _routing(rng: Random) -> Document:
    asked, answer = rng.choice((desk.triage, desk.ticket, _payment_chat, _terms_chat))(rng)
    return Document(turns=(("user", asked), ("assistant", answer)))


def _page(rng: Random) -> Document:
    """Two lines about the same things: what was named once is named again, which teaches to copy."""
    picked: dict[str, str] = {}
    return Document(text=" ".join(fill(rng.choice(PAGES), rng, picked) for _ in range(2)))


def _contract(rng: Random) -> Document:
    """Two clauses of one kind, or a list of chapters: the words for kinds, with nothing that they label."""
    if rng.random() < 0.2:
        chapters = rng.sample(clauses.LABELS, 5)
        return Document(text=f"The contract has chapters on {', '.join(chapters)}.")
    label = rng.choice(clauses.LABELS)
    return Document(text=" ".join(clauses.clause(label, rng) for _ in range(2)))


def _chart(rng: Random) -> Document:
    """Two notes of one kind: what belongs together is learned from standing together."""
    code = rng.choice(notes.CODES)
    return Document(text=" ".join(notes.note(code, rng) for _ in range(2)))


def _statement(rng: Random) -> Document:
    """Two payments, each with what stands out, by words or by count."""
    lines = []
    for _ in range(2):
        paid = payments.any_payment(rng)
        lines.append(f"{paid.text}: {_traits(paid) if rng.random() < 0.5 else _count(paid)}")
    return Document(text=" ".join(lines))


def _payment_chat(rng: Random) -> tuple[str, str]:
    paid = payments.any_payment(rng)
    return f"{rng.choice(PAYMENT_ASKS)} {paid.text}.", capitalized(_count(paid))


def _terms_chat(rng: Random) -> tuple[str, str]:
    return rng.choice(TERMS_ASKS), rng.choice(clauses.LABELS)


def _traits(paid: payments.Payment) -> str:
    amount = "a large sum" if paid.is_large else "a small sum"
    place = "far from home" if paid.is_far else "at home"
    return f"{amount}, {place}, {'in the night' if paid.is_night else 'in the day'}."


def _count(paid: payments.Payment) -> str:
    odd = [
        *(["a large sum"] if paid.is_large else []),
        *(["far from home"] if paid.is_far else []),
        *(["in the night"] if paid.is_night else []),
    ]
    if not odd:
        return "no mark."
    return f"{('one mark', 'two marks', 'three marks')[len(odd) - 1]}: {', '.join(odd)}."
