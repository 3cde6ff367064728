"""Tenants in the order of their turns, kept while thousands come, go and are served."""

from collections.abc import Callable
from itertools import count
from typing import NamedTuple

from sortedcontainers import SortedList


class Turn(NamedTuple):
    """The least is the first."""

    served: float
    held: int
    # Of equals, who came first.
    number: int
    tenant: str


class Turns:
    """A turn may come later with every step, and is looked at when the tenant is the next.

    So a step costs for those whose turn it is and not for all who wait.
    """

    def __init__(self, standing: Callable[[str], tuple[float, int]]) -> None:
        """standing(tenant): what it was served, and how many places it holds, now."""
        self._standing = standing
        self._numbers = count()
        self._order: SortedList[Turn] = SortedList()
        self._turns: dict[str, Turn] = {}

    def enter(self, tenant: str) -> None:
        self._put(tenant, next(self._numbers))

    def leave(self, tenant: str) -> None:
        self._order.remove(self._turns.pop(tenant))

    def renew(self, tenant: str) -> None:
        """Its turn may come earlier now; no error if it is not in line."""
        if tenant in self._turns:
            self._put_again(self._turns[tenant])

    def after(self, turn: Turn | None = None) -> Turn | None:
        """The first turn, or the one behind another; None if there is none."""
        while (found := next(self._order.irange(turn, inclusive=(False, True)), None)) is not None:
            if self._standing(found.tenant) == (found.served, found.held):
                break
            self._put_again(found)
        return found

    def _put_again(self, turn: Turn) -> None:
        self._order.remove(turn)
        self._put(turn.tenant, turn.number)

    def _put(self, tenant: str, number: int) -> None:
        turn = self._turns[tenant] = Turn(*self._standing(tenant), number, tenant)
        self._order.add(turn)
