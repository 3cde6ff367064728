"""What each tenant may hold of a number of places, and who holds more."""

from collections import Counter
from collections.abc import Collection


class Shares:
    """By weight among those who run or wait. Costs grow with those who run, not with those who wait."""

    def __init__(self) -> None:
        self._weights: dict[str, float] = {}
        # How many have each weight: their sum is exact, whoever came and went.
        self._counts: Counter[float] = Counter()
        self._held: dict[str, int] = {}

    def __contains__(self, tenant: str) -> bool:
        return tenant in self._weights

    def __len__(self) -> int:
        return len(self._weights)

    def weight(self, tenant: str) -> float:
        """Of one that runs or waits."""
        return self._weights[tenant]

    def held(self, tenant: str) -> int:
        """Its places."""
        return self._held.get(tenant, 0)

    def holders(self) -> Collection[str]:
        """Those who hold any."""
        return self._held.keys()

    def enter(self, tenant: str, weight: float) -> None:
        """It runs or waits; its weight may have changed."""
        self.leave(tenant)
        self._weights[tenant] = weight
        self._counts[weight] += 1

    def leave(self, tenant: str) -> None:
        weight = self._weights.pop(tenant, None)
        if weight is not None:
            self._counts[weight] -= 1
            if not self._counts[weight]:
                del self._counts[weight]

    def take(self, tenant: str) -> None:
        self._held[tenant] = self._held.get(tenant, 0) + 1

    def give_back(self, tenant: str) -> None:
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]

    def borrowers(self, places: int) -> list[str]:
        """Who holds a place or more over its share of the places, which is a place at least."""
        if not self._held:
            return []
        each = places / sum(weight * number for weight, number in self._counts.items())
        return [t for t, held in self._held.items() if held >= 1 + max(1.0, self._weights[t] * each)]
