"""Card payments of the demo's world and the rule by which its bank judges them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

HOME = ("Norland", "Estmark", "Suvia")
WATCHED = ("Kestovia", "Ardania", "Belmar")
MERCHANTS = ("a grocery store", "a bookshop", "a pharmacy", "a bakery", "a hardware store", "a gift shop")


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
    def text(self) -> str:
        """Such as `$4,210.00 at a bakery in Belmar, 03:12`."""
        return f"{self.amount} at {self.merchant} in {self.state}, {self.clock}"

    @property
    def is_large(self) -> bool:
        """From a thousand up."""
        return self.cents >= 100_000

    @property
    def is_far(self) -> bool:
        """In a watched state."""
        return self.state in WATCHED

    @property
    def is_night(self) -> bool:
        """Before five in the morning."""
        return self.minute < 5 * 60

    @property
    def points(self) -> int:
        """One each for a large amount, a watched state and a night hour: 0 to 3."""
        return self.is_large + self.is_far + self.is_night


def payment(rng: Random, large: bool, far: bool, night: bool) -> Payment:
    """A payment with these three traits, the rest left to `rng`."""
    whole = rng.randint(1000, 9899) if large else rng.randint(5, 99)
    hour = rng.randint(0, 4) if night else rng.randint(10, 20)
    return Payment(
        cents=whole * 100 + rng.choice((0, 50, 90)),
        state=rng.choice(WATCHED if far else HOME),
        merchant=rng.choice(MERCHANTS),
        minute=hour * 60 + rng.randint(0, 59),
    )


def any_payment(rng: Random) -> Payment:
    """A payment whose three traits are each a coin toss."""
    large, far, night = (rng.random() < 0.5 for _ in range(3))
    return payment(rng, large=large, far=far, night=night)
