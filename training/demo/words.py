"""The words of the demo's world and the slots that sentences are filled from."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

NAMES = ("Anna", "Ben", "Clara", "Dario", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kira", "Liam",
         "Mona", "Nils", "Olga", "Paul", "Rosa", "Samir", "Tara", "Viktor")  # fmt: skip
PRODUCTS = ("desk lamp", "kettle", "backpack", "headphones", "office chair", "coffee grinder", "rain jacket",
            "keyboard", "bicycle pump", "water bottle", "tent", "monitor", "notebook", "toaster")  # fmt: skip
COLORS = ("black", "white", "green", "blue", "red", "grey")
CITIES = ("Harbor Bay", "Millbrook", "Stonefield", "Larkton", "Westmere", "Eastvale", "Pinecrest")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
          "November", "December")  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
CARRIERS = ("Swift Post", "Blue Van", "Parcel Line")
PARTIES = ("the supplier", "the customer", "the contractor", "the licensee", "the company", "the consultant")
PERIODS = ("thirty days", "sixty days", "ninety days", "six months", "one year", "two years", "five years")
STATES = ("Norland", "Estmark", "Suvia", "Kestovia", "Ardania", "Belmar")
DAYS = ("two days", "three days", "four days", "one week", "two weeks", "three weeks", "one month")
PEOPLE = ("woman", "man", "patient")

Slot = Callable[[Random], str]


def _one_of(words: Sequence[str]) -> Slot:
    return lambda rng: rng.choice(words)


def order_number(rng: Random) -> str:
    """Such as `K-4821`."""
    return f"{rng.choice('ABCDEFGHIJKLMNOPQRSTUVWXYZ')}-{rng.randint(1000, 9999)}"


def price(rng: Random) -> str:
    """A shop price such as `$24.90`."""
    return f"${rng.randint(5, 400)}.{rng.choice(('00', '50', '90', '95'))}"


SLOTS: dict[str, Slot] = {
    "name": _one_of(NAMES),
    "product": _one_of(PRODUCTS),
    "color": _one_of(COLORS),
    "city": _one_of(CITIES),
    "month": _one_of(MONTHS),
    "weekday": _one_of(WEEKDAYS),
    "carrier": _one_of(CARRIERS),
    "party": _one_of(PARTIES),
    "period": _one_of(PERIODS),
    "state": _one_of(STATES),
    "days": _one_of(DAYS),
    "person": _one_of(PEOPLE),
    "order": order_number,
    "price": price,
    "age": lambda rng: str(rng.randint(19, 88)),
    "day": lambda rng: str(rng.randint(1, 28)),
    "small": lambda rng: str(rng.randint(2, 9)),
}
_SLOT = re.compile(r"\{(\w+)\}")


def fill(template: str, rng: Random, picked: dict[str, str] | None = None) -> str:
    """`template` with each `{slot}` replaced; `picked` holds the values so far and takes new ones."""
    values = picked if picked is not None else {}

    def value(match: re.Match[str]) -> str:
        slot = match.group(1)
        if slot not in values:
            values[slot] = SLOTS[slot](rng)
        return values[slot]

    return _SLOT.sub(value, template)


def capitalized(sentence: str) -> str:
    """`sentence` with its first letter in upper case and the rest untouched."""
    return sentence[:1].upper() + sentence[1:]
