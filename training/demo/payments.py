"""Card payments of the demo's world and the rule by which its bank judges them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

HOME = ("Norland", "Estmark", "Suvia")
WATCHED = ("Kestovia", "Ardania", "Belmar")
EVERYDAY = ("a grocery store", "a bookshop", "a pharmacy", "a bakery", "a hardware store")
RISKY = ("a casino", "a gift card shop", "a crypto exchange")


@dataclass(frozen=True, slots=True)
class Payment:
    """One card payment; `cents` is the amount, `minute` the minute of the day."""

    cents: int
    state: str
    merchant: str
    minute: int

    @property
    def amount(self) -> str:
        """Such as `$4,210.00`."""
        return f"${self.cents // 100:,}.{self.cents % 100:02d}"

    @property
    def clock(self) -> str:
        """Such as `03:12`."""
        return f"{self.minute // 60:02d}:{self.minute % 60:02d}"

    @property
    def is_large(self) -> bool:
        """From a thousand up."""
        return self.cents >= 100_000

    @property
    def is_night(self) -> bool:
        """Before five in the morning."""
        return self.minute < 5 * 60

    @property
    def points(self) -> int:
        """One each for a large amount, a watched state, a night hour and a risky merchant: 0 to 4."""
        return self.is_large + (self.state in WATCHED) + self.is_night + (self.merchant in RISKY)


def payment(rng: Random, large: bool, watched: bool, night: bool, risky: bool) -> Payment:
    """A payment with these four traits, the rest left to `rng`."""
    whole = rng.randint(1000, 9899) if large else rng.randint(5, 99)
    hour = rng.randint(0, 4) if night else rng.randint(10, 20)
    return Payment(
        cents=whole * 100 + rng.choice((0, 50, 90)),
        state=rng.choice(WATCHED if watched else HOME),
        merchant=rng.choice(RISKY if risky else EVERYDAY),
        minute=hour * 60 + rng.randint(0, 59),
    )


def any_payment(rng: Random) -> Payment:
    """A payment whose four traits are each a coin toss."""
    large, watched, night, risky = (rng.random() < 0.5 for _ in range(4))
    return payment(rng, large=large, watched=watched, night=night, risky=risky)
